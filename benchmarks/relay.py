"""The floor for small jobs: client -> relay -> worker in bare Python over socket pairs, with the function cached.

No ids that others know, no progress, no supervision, no thread: what three processes must do at the least.
Frame: 4 bytes length of the body, 8 bytes id, body (a pickle).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import struct

import work

HEAD = struct.Struct("<IQ")
READ_BYTES = 256 * 1024


def split(buffer):
    """Return the whole frames in a buffer as (id, start, end) and where the rest begins."""
    frames, position, size = [], 0, len(buffer)
    while position + HEAD.size <= size:
        length, number = HEAD.unpack_from(buffer, position)
        end = position + HEAD.size + length
        if end > size:
            break
        frames.append((number, position, end))
        position = end
    return frames, position


def run_worker(sock):
    function, rest = work.noop, b""
    while data := sock.recv(READ_BYTES):
        rest += data
        frames, used = split(rest)
        answers = []
        for number, start, end in frames:
            args, kwargs = pickle.loads(rest[start + HEAD.size : end])
            body = pickle.dumps(function(*args, **kwargs))
            answers.append(HEAD.pack(len(body), number) + body)
        rest = rest[used:]
        if answers:
            sock.sendall(b"".join(answers))


class Relay:
    """Shares the client's frames out among the workers, frame by frame, and passes answers back as they come."""

    def __init__(self, client, workers):
        self.client, self.workers = client, workers
        self.rest = dict.fromkeys([client, *workers], b"")
        self.unsent = dict.fromkeys([client, *workers], b"")
        self.turn = 0

    def run(self):
        poll = select.poll()
        by_fd = {sock.fileno(): sock for sock in self.rest}
        for fd, sock in by_fd.items():
            sock.setblocking(False)
            poll.register(fd, select.POLLIN)
        while True:
            for fd, event in poll.poll():
                sock = by_fd[fd]
                if event & (select.POLLIN | select.POLLHUP) and not self.read(sock):
                    return
                for other in self.rest:
                    self.flush(other)
            for sock, unsent in self.unsent.items():
                poll.modify(sock, select.POLLIN | (select.POLLOUT if unsent else 0))

    def read(self, sock):
        data = sock.recv(READ_BYTES)
        if not data:
            return False
        data = self.rest[sock] + data
        frames, used = split(data)
        self.rest[sock] = data[used:]
        if sock is not self.client:
            self.unsent[self.client] += data[:used]
            return True
        shares = [[] for _ in self.workers]
        for _, start, end in frames:
            shares[self.turn].append(data[start:end])
            self.turn = (self.turn + 1) % len(self.workers)
        for worker, share in zip(self.workers, shares, strict=True):
            self.unsent[worker] += b"".join(share)
        return True

    def flush(self, sock):
        if self.unsent[sock]:
            with contextlib.suppress(BlockingIOError):
                self.unsent[sock] = self.unsent[sock][sock.send(self.unsent[sock]) :]


class BareRelay:
    """The client's end."""

    def __init__(self, workers):
        self.pids = []
        self.sock, for_relay = socket.socketpair()
        pairs = [socket.socketpair() for _ in range(workers)]
        for _, theirs in pairs:
            self.fork(
                run_worker, theirs, [self.sock, for_relay, *(s for pair in pairs for s in pair if s is not theirs)]
            )
        relay = Relay(for_relay, [ours for ours, _ in pairs])
        self.fork(lambda _: relay.run(), None, [self.sock, *(theirs for _, theirs in pairs)])
        for sock in [for_relay, *(s for pair in pairs for s in pair)]:
            sock.close()
        self.rest = b""

    def fork(self, run, argument, not_theirs):
        pid = os.fork()
        if pid:
            self.pids.append(pid)
            return
        try:
            for sock in not_theirs:
                sock.close()
            run(argument)
        finally:
            os._exit(0)

    def send(self, numbers):
        frames = []
        for number in numbers:
            body = pickle.dumps(((), {}))
            frames.append(HEAD.pack(len(body), number) + body)
        self.sock.sendall(b"".join(frames))

    def receive(self, results):
        """Wait for some answers and put them into `results`."""
        self.rest += self.sock.recv(READ_BYTES)
        frames, used = split(self.rest)
        for number, start, end in frames:
            results[number] = pickle.loads(self.rest[start + HEAD.size : end])
        self.rest = self.rest[used:]

    def call_all(self, count, batch):
        for first in range(0, count, batch):
            self.send(range(first, min(first + batch, count)))
        results = {}
        while len(results) < count:
            self.receive(results)

    def call(self):
        self.send((0,))
        results = {}
        while not results:
            self.receive(results)

    def close(self):
        self.sock.close()
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
