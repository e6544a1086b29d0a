"""Threads of the operating system, where a library has replaced those of the standard library, too."""

from __future__ import annotations

import threading
from collections.abc import Callable

from procjobs.errors import SupervisorError
from procjobs.originals import has_green_threads, original

_start_new_thread = original("_thread", "start_new_thread")
_allocate_lock = original("_thread", "allocate_lock")
get_ident: Callable[[], int] = original("_thread", "get_ident")


class NoThreadError(SupervisorError, RuntimeError):
    """A RuntimeError, as that of `threading` at the end of the interpreter is, and for the user one of procjobs."""


class NativeThread:
    """A daemon thread that runs one function. `start` raises RuntimeError where no more threads can be started."""

    def __init__(self, target: Callable[[], None], name: str) -> None:
        self._target = target
        self._name = name
        self._thread: threading.Thread | None = None
        self._running = _allocate_lock()

    def start(self) -> None:
        """Start the thread."""
        if not has_green_threads():
            thread = threading.Thread(target=self._target, name=self._name, daemon=True)
            thread.start()
            self._thread = thread
            return
        self._running.acquire()
        try:
            _start_new_thread(self._run, ())
        except BaseException:
            self._running.release()
            raise

    def start_or_explain(self) -> None:
        """Start the thread; raise NoThreadError, which says what to do, where there can be none."""
        try:
            self.start()
        except RuntimeError as error:
            raise NoThreadError(
                f"this process can start no thread to receive answers with: {error}. Raise its limits of processes "
                "and threads (ulimit -u, pids.max of the control group) or of addresses (ulimit -v)"
            ) from error

    def _run(self) -> None:
        try:
            self._target()
        finally:
            self._running.release()

    def join(self) -> None:
        """Wait until it has ended; nothing but that thread runs meanwhile."""
        if self._thread is not None:
            self._thread.join()
        else:
            with self._running:
                pass
