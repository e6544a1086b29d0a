"""The application of the tests of task queues: a web server that notes every request, and answers as its path says.

    /ok                 200                             /status/503     that status
    /failing/2          500 to the first two of a task  /to             302, to /ok
    /slow/0.3           200 after so many seconds       /held/NAME      200 once NAME was released
    /hanging            nothing, ever                   /trickling      a head, a byte of the body, and nothing more
    /garbage            bytes that are no HTTP          /closing        the end of the connection
    /release/NAME       for the tests themselves

Run as a program with the path of a file, and with a pipe that is open for as long as it is to run. The first line of the
file is the port, every other one a request, or the end of one. The times are those of the monotonic clock, which all
processes of the host share.
"""

from __future__ import annotations

import asyncio
import collections
import json
import os
import sys
import threading
import time


class Server:
    def __init__(self, file):
        self._file = file
        self._count = 0
        self._tries = collections.Counter()
        self._released = collections.defaultdict(asyncio.Event)

    async def serve(self):
        server = await asyncio.start_server(self._serve_connection, "127.0.0.1", 0, backlog=1024)
        self._write({"port": server.sockets[0].getsockname()[1]})
        async with server:
            await server.serve_forever()

    def _write(self, record):
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    async def _serve_connection(self, reader, writer):
        try:
            while await self._serve_request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _serve_request(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        at = time.monotonic()
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        method, target, _ = first.split(" ")
        pairs = [tuple(part.strip() for part in line.split(":", 1)) for line in lines]
        headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if target.startswith("/release/"):
            self._released[target.removeprefix("/release/")].set()
        else:
            self._count += 1
            number = self._count
            self._write({
                "number": number, "at": at, "method": method, "target": target, "pairs": pairs,
                "body": body.decode("latin-1"), "peer": writer.get_extra_info("peername")[1],
            })  # fmt: skip
        try:
            answer = await self._answer(target, headers, reader)
        finally:
            if not target.startswith("/release/"):
                self._write({"ended": number, "at": time.monotonic()})
        writer.write(answer)
        await writer.drain()
        return answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 5"))

    async def _answer(self, target, headers, reader):
        what, _, argument = target.partition("?")[0].removeprefix("/").partition("/")
        status = 200
        if what == "status":
            status = int(argument)
        elif what == "to":
            return b"HTTP/1.1 302 Found\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n"
        elif what == "failing":
            task = headers["x-appengine-taskname"]
            self._tries[task] += 1
            status = 500 if self._tries[task] <= int(argument) else 200
        elif what == "slow":
            await asyncio.sleep(float(argument))
        elif what == "held":
            await self._released[argument].wait()
        elif what == "hanging":
            await reader.read()
        elif what == "trickling":
            return b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n."
        elif what == "garbage":
            return b"\x16\x03\x01 this is no HTTP at all\r\n\r\n"
        elif what == "closing":
            return b""
        return f"HTTP/1.1 {status} Status\r\nContent-Length: 2\r\n\r\nok".encode()


def end_with_parent():
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    with open(sys.argv[1], "w") as file:
        asyncio.run(Server(file).serve())
