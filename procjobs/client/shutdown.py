"""How a pool is let go of, and how it is ended for everybody."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import sys
import threading
import weakref
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final

from procjobs.client import launcher
from procjobs.errors import SupervisorLost
from procjobs.host import process

if TYPE_CHECKING:
    from procjobs.client.connection.connection import Connection
    from procjobs.host.rundir import RunDir
    from procjobs.shared.config import JobOptions
    from procjobs.shared.table.reader import ProgressTable

_STOP_TIMEOUT: Final = 30.0


class Ending:
    """The ending half of a pool."""

    _lock: threading.RLock
    _closed: bool
    _owner_pid: int
    _child_pid: int | None
    _connection: Connection | None
    _retired: list[Connection]
    _finalizer: weakref.finalize[..., Any]
    _table: ProgressTable | None
    _directory: RunDir
    _job_defaults: JobOptions

    @property
    @abstractmethod
    def is_private(self) -> bool:
        """Whether the pool belongs to the process that made it."""

    @abstractmethod
    def _connect(self) -> Connection:
        """Return the connection to the supervisor."""

    def stop(self) -> None:
        """End the pool for everybody: waiting jobs fail with PoolClosed, running ones are stopped. Waits for the end.

        Nothing of the pool remains: no process, no file.
        """
        self._end("stop", _STOP_TIMEOUT + self._job_defaults.grace_period)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let go of the pool. A private one ends when its jobs are done; a named one goes on for the others.

        With `wait`, return when the jobs submitted here are done; with `cancel_futures`, cancel those that have not
        started.
        """
        with self._lock:
            was_closed, self._closed = self._closed, True
            connection = self._connection
        if connection is None:
            return
        if not was_closed:
            with contextlib.suppress(SupervisorLost):
                if cancel_futures:
                    connection.request("cancel_queued")
                if self.is_private and os.getpid() == self._owner_pid:
                    connection.request("drain")
        if wait:
            concurrent.futures.wait(connection.outstanding())
            if self.is_private and os.getpid() == self._owner_pid:
                connection.wait_for_end(None)
            self._release(connection)
        elif not self.is_private:
            self._finalizer.detach()
            connection.close_when_idle()

    def _end(self, call: str, timeout: float, **arguments: Any) -> None:
        with self._lock:
            connection = self._connect() if not self._closed else self._connection
            self._closed = True
        if connection is None:
            return
        supervisor = process.try_open_pidfd(connection.welcome["pid"])
        try:
            with contextlib.suppress(SupervisorLost):
                connection.request(call, **arguments)
            connection.wait_for_end(timeout)
            self._release(connection)
            launcher.wait_for_end(self._directory, timeout)
            if supervisor is not None:  # it removes its files, the lock last, and then still has to end
                process.wait_for_pidfd(supervisor, timeout)
        finally:
            if supervisor is not None:
                os.close(supervisor)

    def _release(self, connection: Connection) -> None:
        self._finalizer.detach()
        connection.close()
        for former in self._retired:
            former.wait_for_end(None)
        self._table = None
        self._wait_for_child(_STOP_TIMEOUT)

    def _wait_for_child(self, timeout: float | None) -> None:
        child, self._child_pid = self._child_pid, None
        if child is not None:
            process.wait_for_child(child, _STOP_TIMEOUT if timeout is None else timeout)
            launcher.wait_for_end(self._directory, _STOP_TIMEOUT)

    def _let_child_go(self) -> None:
        """Reap the private supervisor that was lost."""
        child, self._child_pid = self._child_pid, None
        if child is not None:
            process.wait_for_child(child, _STOP_TIMEOUT)

    def __exit__(self, kind: type[BaseException] | None, value: object, traceback: object) -> None:
        """Wait for the jobs, or on Ctrl-C and exit, if the pool is private, end it at once."""
        if kind is not None and not issubclass(kind, Exception) and self.is_private:
            self._stop_at_once()
        else:
            self.shutdown(wait=True)

    def _stop_at_once(self) -> None:
        if not self._closed:
            self._end("stop", _STOP_TIMEOUT, at_once=True)

    def finish_at_exit(self) -> None:
        """Do what has to be done before the interpreter ends: a private pool's jobs are awaited, but for a Ctrl-C."""
        if not self.is_private or os.getpid() != self._owner_pid:
            return
        if getattr(sys, "last_type", None) is KeyboardInterrupt:
            self._stop_at_once()
        else:
            self.shutdown(wait=True)


def abandon(connection: Connection, child_pid: int | None, is_owner: bool) -> None:
    """Let go of a pool that was forgotten without a shutdown; nobody holds a handle of its jobs either."""
    if is_owner:
        connection.ask_to_stop()
    connection.close()
    if child_pid is not None:
        process.wait_for_child(child_pid, _STOP_TIMEOUT)
