"""The server of `procjobs web`: its address, its end, and the pools that it shows."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import stat
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

import uvicorn

from procjobs.cli.problems import FAILED, INTERRUPTED, OK, USAGE, Problem
from procjobs.client.running_pool import RunningPool, find_pools
from procjobs.clock import monotonic
from procjobs.errors import ProcjobsError
from procjobs.host.rundir import is_held

if TYPE_CHECKING:
    from types import FrameType

    from procjobs.host.rundir import RunDir

_Scope: TypeAlias = MutableMapping[str, Any]
_Application: TypeAlias = Callable[[_Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]

_LOOK_INTERVAL: Final = 0.5
"""For so many seconds, the pools that were found are taken to be all there are."""
_RELEASE_AFTER: Final = 2.0
"""So many seconds after the last request, supervisors are let go of: an unused pool may end then."""
_GRACE: Final = 1
_MAX_GRACE: Final = 1.7
"""So many seconds after a signal the process ends, even if a thread of it still waits for a supervisor."""


class ShownPools:
    """The running pools of this user, or those with certain names: each is opened once, and dropped when it has gone.

    A pool whose supervisor was killed stays, as long as its traces are there: it may be started again.
    """

    def __init__(self, names: Sequence[str], directory: str | None) -> None:
        self._names = frozenset(names)
        self._directory = directory
        self._lock = threading.Lock()
        self._opened: dict[str, RunningPool] = {}
        self._looked_at = float("-inf")

    def __call__(self) -> list[RunningPool]:
        """Return the pools there are now, by name."""
        with self._lock:
            if monotonic() - self._looked_at >= _LOOK_INTERVAL:
                self._look()
                self._looked_at = monotonic()
            return sorted(self._opened.values(), key=lambda pool: pool.name)

    def disconnect(self) -> None:
        """Let go of all supervisors that nobody waits for; the next call that asks one connects anew. May block."""
        with self._lock:
            opened = list(self._opened.values())
        for pool in opened:
            pool.disconnect_if_unused()

    def close(self) -> None:
        """Let go of all pools."""
        with self._lock:
            for pool in self._opened.values():
                pool.close()
            self._opened.clear()

    def _look(self) -> None:
        places = {place.path: place for place in find_pools(self._directory) if self._is_shown(place)}
        for path in [path for path in self._opened if path not in places]:
            self._opened.pop(path).close()
        for path, place in places.items():
            if path not in self._opened and is_held(place.lock):
                with contextlib.suppress(ProcjobsError):  # it is just ending, or of another release
                    self._opened[path] = RunningPool(place)

    def _is_shown(self, place: RunDir) -> bool:
        return not self._names or place.name in self._names


class Releasing:
    """An ASGI application around another one: it lets go of the supervisors when nobody has asked for a moment.

    A stream of events asks nobody, and may stay open for hours: it does not count.
    """

    def __init__(self, application: _Application, release: Callable[[], None]) -> None:
        self._application = application
        self._release = release
        self._requests = 0
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(
        self, scope: _Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Pass a request on."""
        counts = 0 if scope.get("path", "").endswith("/events") else 1
        self._requests += counts
        try:
            await self._application(scope, receive, send)
        finally:
            self._requests -= counts
            self._plan()

    def _plan(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_RELEASE_AFTER, self._let_go)

    def _let_go(self) -> None:
        self._timer = None
        if self._requests:
            self._plan()
        else:
            asyncio.get_running_loop().run_in_executor(None, self._release)


class Server(uvicorn.Server):
    """uvicorn, which sleeps while nobody asks, and has ended two seconds after a signal whatever its threads wait for."""

    def __init__(self, application: _Application, close: Callable[[], None]) -> None:
        """`close` lets go of the supervisors: those who wait for one get an error then, and answer with that."""
        super().__init__(
            uvicorn.Config(
                application, log_level="warning", access_log=False, lifespan="off", ws="none", proxy_headers=False,
                server_header=False, date_header=False, timeout_graceful_shutdown=_GRACE,
            )
        )
        self._close = close
        self._has_to_end = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_interrupted(self) -> bool:
        """Whether the first signal was Ctrl-C."""
        return self._captured_signals[:1] == [signal.SIGINT]

    async def main_loop(self) -> None:
        """Wait for a signal. The loop of uvicorn looks ten times a second whether there was one."""
        self._loop = asyncio.get_running_loop()
        await self.on_tick(0)
        if not self.should_exit:
            await self._has_to_end.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end. In a signal handler, which may come at any line."""
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._has_to_end.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End as uvicorn does; where that takes too long, because a thread waits for a database, end the process."""
        last = threading.Timer(_MAX_GRACE, os._exit, (INTERRUPTED if self.is_interrupted else OK,))
        last.daemon = True
        last.start()
        await asyncio.to_thread(self._close)
        await super().shutdown(sockets)


def serve(application: _Application, listener: socket.socket, close: Callable[[], None]) -> None:
    """Serve until SIGTERM, or until Ctrl-C, which is raised as KeyboardInterrupt at the end; `close` is as in Server."""
    server = Server(application, close)
    # Before uvicorn does it: its loop is not there yet, and a signal must not be lost. It raises signals anew at its end.
    former = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run([listener])
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if server.is_interrupted:
        raise KeyboardInterrupt


@contextmanager
def ending_well() -> Iterator[None]:
    """Let SIGTERM end the process with exit code 0, cleaned up, before it serves and after that."""
    former = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(OK)


# The address ----------------------------------------------------------------------------------------------------


@contextmanager
def listening(bind: str) -> Iterator[tuple[socket.socket, str]]:
    """Yield a socket that listens, and its address as `bind` has it, with the real port; raise Problem if that fails.

    `bind` is HOST:PORT, [HOST]:PORT or unix:PATH. A Unix socket is for this user alone, and is removed at the end.
    """
    if bind.startswith("unix:"):
        path = os.path.abspath(bind.removeprefix("unix:"))
        with _explained(bind):
            listener = _listen_at(path)
        with contextlib.closing(listener):
            try:
                yield listener, f"unix:{path}"
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(path)
        return
    host, port = split_address(bind)
    with _explained(bind):
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128)
    with contextlib.closing(listener):
        yield listener, join_address(host, listener.getsockname()[1])


def split_address(bind: str) -> tuple[str, int]:
    """Return the host and the port of an address.

    >>> split_address("127.0.0.1:8321"), split_address("[::1]:0")
    (('127.0.0.1', 8321), ('::1', 0))
    """
    host, colon, port = bind.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    is_port = port.isascii() and port.isdecimal() and len(port) < 6 and int(port) < 65_536
    if not (colon and host and is_port) or (":" in host and not is_bracketed):
        raise Problem(f"{bind!r} is no address to listen at", "give HOST:PORT, [HOST]:PORT or unix:PATH", USAGE)
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """Return an address as it is in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen_at(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listener.bind(path)
        os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)  # nobody can connect before the socket listens
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    """Remove the socket of a server that was killed; raise OSError (EADDRINUSE) if one listens there, or it is a file."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISSOCK(mode):
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
                return
    raise OSError(errno.EADDRINUSE, "something is there already")


@contextmanager
def _explained(bind: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = {
            errno.EADDRINUSE: "another program listens there: give another address with --bind, or port 0 for a free one",
            errno.EACCES: "ports below 1024 and places of others need rights that this user does not have",
            errno.EADDRNOTAVAIL: "this host does not have that address",
        }.get(error.errno or 0, "give HOST:PORT, [HOST]:PORT or unix:PATH")
        why = str(error.strerror or error).partition(" (while")[0]
        raise Problem(f"it cannot listen at {bind}: {why}", hint, FAILED) from None
