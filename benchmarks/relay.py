"""The floor for small jobs: client -> relay -> worker in bare Python over socket pairs, with the function cached.

It has no job ids for other processes, no progress, no supervision and no thread: only the minimum of three processes.
A frame has 4 bytes for the length of the body, 8 bytes for the id, and the body (a pickle).
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
CLIENT_SHARE = 2**32
"""The frame numbers of client n begin at n times this, so that the relay knows the client of an answer."""


def split(buffer):
    """Return the complete frames in a buffer as (id, start, end), and the position of the rest."""
    frames, position, size = [], 0, len(buffer)
    while position + HEAD.size <= size:
        length, number = HEAD.unpack_from(buffer, position)
        end = position + HEAD.size + length
        if end > size:
            break
        frames.append((number, position, end))
        position = end
    return frames, position


def run_worker(sock, function):
    rest = b""
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
    """Distributes the clients' frames to the workers in turn, and passes answers back as they come."""

    def __init__(self, clients, workers):
        self.clients, self.workers = clients, workers
        self.rest = dict.fromkeys([*clients, *workers], b"")
        self.unsent = dict.fromkeys([*clients, *workers], b"")
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
        if sock not in self.clients:
            if len(self.clients) == 1:
                self.unsent[self.clients[0]] += data[:used]
            else:
                for number, start, end in frames:
                    self.unsent[self.clients[number // CLIENT_SHARE]] += data[start:end]
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
    """The clients' ends. All processes are forked from this one. `call` and `call_all` use the current client's end."""

    def __init__(self, workers, *, clients=1, function=work.noop):
        self.pids = []
        self.arguments = ()
        ends = [socket.socketpair() for _ in range(clients)]
        pairs = [socket.socketpair() for _ in range(workers)]
        everything = [sock for pair in [*ends, *pairs] for sock in pair]
        for _, theirs in pairs:
            self.fork(lambda sock=theirs: run_worker(sock, function), [s for s in everything if s is not theirs])
        keep = [*(theirs for _, theirs in ends), *(ours for ours, _ in pairs)]
        relay = Relay(keep[:clients], keep[clients:])
        self.fork(relay.run, [s for s in everything if s not in keep])
        self.socks = [ours for ours, _ in ends]
        for sock in everything:
            if sock not in self.socks:
                sock.close()
        self.use(0)

    def use(self, client):
        """Make this process the client with this number."""
        self.sock, self.first, self.rest = self.socks[client], client * CLIENT_SHARE, b""

    def fork(self, run, not_theirs):
        pid = os.fork()
        if pid:
            self.pids.append(pid)
            return
        try:
            for sock in not_theirs:
                sock.close()
            run()
        finally:
            os._exit(0)

    def send(self, numbers):
        frames = []
        for number in numbers:
            body = pickle.dumps((self.arguments, {}))
            frames.append(HEAD.pack(len(body), self.first + number) + body)
        self.sock.sendall(b"".join(frames))

    def receive(self, results):
        """Wait for answers, and put them into `results`."""
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

    def call(self, *arguments):
        self.arguments = arguments
        self.send((0,))
        results = {}
        while not results:
            self.receive(results)

    def close(self):
        for sock in self.socks:
            sock.close()
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
