"""A pool that is there already, as its operator sees it: found by name, read and told what to do, never started."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from typing import Any, Final, Self, cast

from procjobs.client import launcher
from procjobs.client.code import describe_code
from procjobs.client.connection.connection import Connection
from procjobs.client.controls import Controls
from procjobs.client.job import Job
from procjobs.client.monitor import Monitor
from procjobs.client.pool import Pool
from procjobs.clock import monotonic, sleep
from procjobs.errors import PoolNotRunning, SupervisorError, SupervisorLost
from procjobs.host import observe, payload, process, rundir
from procjobs.shared.ids import from_text
from procjobs.shared.table.reader import ProgressTable
from procjobs.shared.wire import ANY_CODE

_APPEARS_WITHIN: Final = 5.0
"""How long a pool whose lock is held may take until its table is there: it is starting, or just ending."""
_ENDS_WITHIN: Final = 60.0
_LONGEST_POLL: Final = 86_400.0  # poll(2) takes milliseconds in an int


class AttachedPool(Monitor, Controls):
    """A running pool, or what a killed supervisor has left of one: that can be read and nothing else.

    Reading connects to nobody. The first call that asks the supervisor connects to it, as a client that brings no code.
    """

    name: str

    def __init__(self, directory: rundir.RunDir) -> None:
        """Read the table of the pool in this directory; raise PoolNotRunning if there is none."""
        self.name = directory.name
        self._directory = directory
        self._lock = threading.RLock()
        self._closed = False
        self._connection: Connection | None = None
        self._table: ProgressTable | None = self._wait_for_table()

    def __repr__(self) -> str:
        return f"pool {self.name!r}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> str:
        """The pool's directory."""
        return self._directory.path

    @property
    def log(self) -> str:
        """The pool's log file."""
        return self._directory.log

    def _wait_for_table(self) -> ProgressTable:
        deadline = monotonic() + _APPEARS_WITHIN
        while True:
            try:
                return ProgressTable(self._directory.table, loads=payload.loads)
            except FileNotFoundError:
                if not self.is_running() or monotonic() > deadline:
                    raise PoolNotRunning(f"pool {self.name!r} is not running") from None
            except OSError as error:
                raise SupervisorError(f"the table of pool {self.name!r} cannot be read: {error}") from error
            sleep(0.005)

    def is_running(self) -> bool:
        """Return whether the pool has a supervisor."""
        return rundir.is_held(self._directory.lock)

    def supervisor_state(self) -> str:
        """Return what the supervisor is doing, in the words of ps, `"gone"` if it was killed."""
        return observe.describe_state(self._read_table().supervisor_pid) if self.is_running() else "gone"

    def _connect(self) -> Connection:
        with self._lock:
            if self._connection is None or self._connection.lost:
                self.disconnect()
                self._connection = self._reach()
            return self._connection

    def _reach(self) -> Connection:
        state, pid = self.supervisor_state(), self._read_table().supervisor_pid
        if state == "gone":
            raise PoolNotRunning(f"pool {self.name!r} is not running: its supervisor (pid {pid}) was killed")
        if state == "stopped":
            raise SupervisorLost(f"the supervisor of pool {self.name!r} (pid {pid}) is stopped and does not answer")
        sock = launcher.try_connect(self._directory)
        if sock is None:
            raise PoolNotRunning(f"pool {self.name!r} is just ending")
        connection = Connection(sock, self._directory.path, submit_timeout=5.0)
        _, spec = describe_code((), None, (), "")
        spec_fd = launcher.memory_file(json.dumps(spec).encode(), self._directory.base)
        try:
            connection.say_hello(ANY_CODE, spec_fd, launcher.interpreter())
        except BaseException:
            connection.close()
            raise
        finally:
            os.close(spec_fd)
        return connection

    def welcome(self) -> dict[str, Any]:
        """Return what the supervisor says of itself: its `version`, `settings`, `problem`."""
        return self._connect().welcome

    def job(self, job_id: str) -> Job[Any]:
        """Return a handle of a job, as `Pool.job` does."""
        job: Job[Any] = Job(cast(Pool, self), from_text(job_id), self.status(job_id).name)
        return self._connect().watch(job)

    def stop(self, *, at_once: bool = False) -> None:
        """End the pool for everybody, as `Pool.stop` does; `at_once` gives running jobs no grace period."""
        connection = self._connect()
        supervisor = process.try_open_pidfd(self._read_table().supervisor_pid)
        with contextlib.suppress(SupervisorLost):
            connection.request("stop", at_once=at_once)
        self._wait_for_end(supervisor, _ENDS_WITHIN + connection.welcome["settings"]["job_defaults"]["grace_period"])

    def wait_for_end(self, timeout: float | None) -> bool:
        """Wait until the pool has ended; return whether it has within so many seconds (None: for ever)."""
        return self._wait_for_end(process.try_open_pidfd(self._read_table().supervisor_pid), timeout)

    def _wait_for_end(self, supervisor: int | None, timeout: float | None) -> bool:
        if supervisor is None:
            return True
        try:
            while timeout is None:
                timeout = None if not process.wait_for_pidfd(supervisor, _LONGEST_POLL) else 0.0
            return process.wait_for_pidfd(supervisor, timeout)
        finally:
            os.close(supervisor)

    def disconnect(self) -> None:
        """Let go of the supervisor; the next call that asks it connects anew."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Let go of the pool."""
        self._closed = True
        self.disconnect()
        self._table = None


def find_pools(directory: str | None = None) -> list[rundir.RunDir]:
    """Return the pools of this user on this host, private ones and those of killed supervisors among them."""
    return [pool for base in rundir.existing_bases(directory) for pool in rundir.list_pools(base)]


def find_pool(name: str, directory: str | None = None) -> rundir.RunDir | None:
    """Return the pool of that name, a running one where there are several; None if there is none."""
    found = [pool for pool in find_pools(directory) if pool.name == name]
    return next((pool for pool in found if rundir.is_held(pool.lock)), found[0] if found else None)
