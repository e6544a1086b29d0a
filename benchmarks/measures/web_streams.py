"""500 pages that follow jobs: one stream each, beside polling. What it costs the web server.

The server is one uvicorn. Two jobs report 20 times a second; half of the pages follow the one, half the other. The CPU time
of the server's process is read before and after the time measured, in which all connections are open; its memory is what it
has grown by. The client is another process, and is not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
import time

import work

from measures.base import BENCHMARKS, Measure, Metric, named_pool

PAGES = 500
START_TIMEOUT, SETTLE_SECONDS = 20.0, 2.0
STREAMS = "procjobs, streams"
QUIET = "procjobs, streams, nothing changes"
KINDS = {STREAMS: None, QUIET: None, "procjobs, polling every 1 s": 1.0, "procjobs, polling every 2 s": 2.0}


def measure_streams(name, seconds):
    try:
        import psutil
        import sse_starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise RuntimeError(f"{error.name} is not installed") from error
    from procjobs.web import sign

    _allow_descriptors(4 * PAGES)
    job = work.sleep if name == QUIET else work.report_steadily
    with named_pool() as (pool, _):
        jobs = [pool.submit(job, START_TIMEOUT + SETTLE_SECONDS + seconds + 10) for _ in range(2)]
        tokens = [sign(one) for one in jobs]
        with uvicorn_running(pool.name) as (process, port):
            server = psutil.Process(process.pid)
            before = server.memory_info().rss
            client = Pages(port, tokens, KINDS[name])
            used, answers, elapsed = asyncio.run(client.measure(server, seconds))
            grown = server.memory_info().rss - before
        for one in jobs:
            one.cancel()
    metrics = {"cpu": 100 * used / elapsed, "answers": answers / elapsed, "memory": grown / 1e6}
    return metrics, f"{PAGES} pages"


def _allow_descriptors(needed):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))


@contextlib.contextmanager
def uvicorn_running(pool):
    with contextlib.closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--port", str(port), "--log-level", "warning", "--no-access-log"]
    environment = {**os.environ, "PROCJOBS_BENCHMARK_POOL": pool}
    process = subprocess.Popen([*command, "--backlog", "2048", "streams_app:application"], cwd=BENCHMARKS, env=environment)
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while not _is_open(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("uvicorn does not start")
            time.sleep(0.02)
        yield process, port
    finally:
        process.terminate()
        process.wait()


def _is_open(port):
    with contextlib.closing(socket.socket()) as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Pages:
    """The pages, each with a connection of its own. `interval` is that of polling, None for streams."""

    def __init__(self, port, tokens, interval):
        self._port = port
        self._tokens = tokens
        self._interval = interval
        self.answers = 0

    async def measure(self, server, seconds):
        """Return the server's CPU time, the number of events or answers, and the time, all of the time measured."""
        page = self._follow if self._interval is None else self._poll
        tasks = [asyncio.create_task(page(self._tokens[number % 2], number / PAGES)) for number in range(PAGES)]
        await asyncio.sleep(SETTLE_SECONDS)
        begun, cpu, answers = time.monotonic(), _cpu(server), self.answers
        await asyncio.sleep(seconds)
        used, elapsed = _cpu(server) - cpu, time.monotonic() - begun
        answers = self.answers - answers
        broken = [task.exception() for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if broken:
            raise RuntimeError(f"{len(broken)} pages lost their connection: {broken[0]!r}")
        return used, answers, elapsed

    async def _follow(self, token, _):
        reader, writer = await self._ask("events", token)
        with contextlib.closing(writer):
            while line := await reader.readline():
                self.answers += line.startswith(b"event: status")
        raise RuntimeError("the stream has ended")

    async def _poll(self, token, offset):
        await asyncio.sleep(offset * self._interval)
        reader, writer = await self._ask("status", token)
        with contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(int(length.partition(b":")[2]))
                self.answers += 1
                await asyncio.sleep(self._interval)
                writer.write(self._request("status", token))

    async def _ask(self, what, token):
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(self._request(what, token))
        return reader, writer

    def _request(self, what, token):
        return f"GET /api/1/{what}?id={token} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def _cpu(server):
    times = server.cpu_times()
    return times.user + times.system


MEASURES = {
    "web_streams": Measure(
        f"What {PAGES} pages that follow 2 jobs cost the web server (seconds measured)",
        {"cpu": Metric("CPU", "% of a core"), "answers": Metric("events or answers", "/s", "more"),
         "memory": Metric("memory", "MB")},
        measure_streams, list(KINDS), 10, 3, rounds=3, quick_repeats=1, ours=STREAMS,
        quick_participants=[STREAMS, "procjobs, polling every 1 s"],
    ),
}  # fmt: skip
