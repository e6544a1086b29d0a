"""A pool that is there already, as its operator sees it: found by name, read and controlled, never started."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from procjobs.client import launcher
from procjobs.client.code import Code, describe_code
from procjobs.client.connection.caller import Caller
from procjobs.client.connection.connection import Connection
from procjobs.client.connection.failover import NO_TABLE
from procjobs.client.controls import Controls
from procjobs.client.greeting import close_reads, greet
from procjobs.client.job import Job
from procjobs.client.link import Link
from procjobs.client.monitor import Monitor
from procjobs.clock import monotonic, sleep
from procjobs.errors import PoolNotRunning, SupervisorError, SupervisorLost
from procjobs.host import observe, payload, process, rundir
from procjobs.shared.ids import from_text
from procjobs.shared.table.post_mortem import PostMortemTable
from procjobs.shared.wire import ANY_CODE

if TYPE_CHECKING:
    from procjobs.client.connection.failover import OnLost
    from procjobs.host.rundir import RunDir
    from procjobs.shared.ids import JobId

_APPEAR_TIMEOUT: Final = 5.0
"""How long a pool whose lock is held may take until its table is there: it is starting, or just ending."""
_END_TIMEOUT: Final = 60.0
_SUBMIT_TIMEOUT: Final = 5.0
_MAX_WAIT: Final = 86_400.0


class RunningLink(Link):
    """The link of a `RunningPool`: it never starts a supervisor, and connects as a client that brings no code."""

    def __init__(self, directory: RunDir) -> None:
        super().__init__(directory.name, f"pool {directory.name!r}", directory, _wait_for_table(directory))

    def connect(self) -> Connection:
        """Return the connection to the supervisor, made if there is none; raise PoolNotRunning if nobody answers."""
        return self.exclusive.run(self._connect)

    def _connect(self) -> Connection:
        connection = self.connection
        if connection is None or connection.lost:
            self.disconnect()
            connection = self.connection = self._reach()
        return connection

    def _reach(self) -> Connection:
        state, pid = self.supervisor_state(), self.read_table().supervisor_pid
        if state == "gone":
            raise PoolNotRunning(f"{self.label} is not running: its supervisor (pid {pid}) was killed")
        if state == "stopped":
            raise SupervisorLost(f"the supervisor of {self.label} (pid {pid}) is stopped and does not answer")
        sock = launcher.try_connect(self.directory)
        if sock is None:
            raise PoolNotRunning(f"{self.label} is just ending")
        try:
            greeting = greet(sock, Code(ANY_CODE, describe_code((), None, (), "").spec, ""), self.directory)
        except BaseException:
            sock.close()
            raise
        return Connection(
            sock, greeting, NO_TABLE, self.directory.path, submit_timeout=_SUBMIT_TIMEOUT, caller=Caller(()),
            on_lost=_refuse_successor(self.label), on_notice=_ignore,
        )  # fmt: skip

    def is_running(self) -> bool:
        """Return whether the pool has a supervisor."""
        return rundir.is_held(self.directory.lock)

    def supervisor_state(self) -> str:
        """Return the state of the supervisor, in the words of ps, `"gone"` if it was killed."""
        return observe.describe_state(self.read_table().supervisor_pid) if self.is_running() else "gone"

    def disconnect(self) -> None:
        """Let go of the supervisor; the next call that asks it connects anew."""
        connection, self.connection = self.connection, None
        if connection is not None:
            close_reads(connection)
            connection.close()

    def disconnect_if_unused(self) -> None:
        """Let go of the supervisor, unless a thread waits for its reply."""
        self.exclusive.run(self._disconnect_if_unused)

    def _disconnect_if_unused(self) -> None:
        connection = self.connection
        if connection is not None and not connection.requests.are_awaited:
            self.disconnect()

    def close(self) -> None:
        """Let go of the pool."""
        self.closed = True
        self.disconnect()
        self.table = None


def _wait_for_table(directory: RunDir) -> PostMortemTable:
    launcher.check_place(directory)
    deadline = monotonic() + _APPEAR_TIMEOUT
    while True:
        try:
            return PostMortemTable(directory.table, loads=payload.loads)
        except FileNotFoundError:
            if not rundir.is_held(directory.lock) or monotonic() > deadline:
                raise PoolNotRunning(f"pool {directory.name!r} is not running") from None
        except OSError as error:
            raise SupervisorError(f"the table of pool {directory.name!r} cannot be read: {error}") from error
        sleep(0.005)


def _refuse_successor(label: str) -> OnLost:
    """Return a refusal for a connection that is lost: nobody here may start another supervisor."""

    def refuse(*_: object) -> NoReturn:
        raise PoolNotRunning(f"{label} is not running any more, and is not started from here")

    return refuse


def _ignore(_news: dict[str, Any]) -> None:
    pass


class RunningPool(Monitor, Controls):
    """A running pool, or the traces of one whose supervisor was killed: those can be read and nothing else.

    Reading connects to nobody. The first call that asks the supervisor connects to it.
    """

    def __init__(self, directory: RunDir) -> None:
        """Read the table of the pool in this directory; raise PoolNotRunning if there is none."""
        self.name = directory.name
        self._running = RunningLink(directory)
        super().__init__(self._running)

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

    def is_running(self) -> bool:
        """Return whether the pool has a supervisor."""
        return self._running.is_running()

    def supervisor_state(self) -> str:
        """Return the state of the supervisor, in the words of ps, `"gone"` if it was killed."""
        return self._running.supervisor_state()

    def welcome(self) -> dict[str, Any]:
        """Return what the supervisor says of itself: its `version`, `settings`, `problem`."""
        return self._link.connect().welcome

    def job(self, job_id: JobId) -> Job[Any]:
        """Return a handle of a job, as `Pool.job` does."""
        job: Job[Any] = Job(self, from_text(job_id), self.status(job_id).name)
        return self._link.connect().watch(job)

    def retry(self, job_id: JobId) -> Job[Any]:
        """Submit a job again, as `Pool.retry` does."""
        job: Job[Any] = Job(self, *self._repeat(job_id))
        return self._link.connect().watch(job)

    def run_now(self, schedule: str) -> Job[Any]:
        """Submit the call of a schedule now, as `Pool.run_now` does."""
        job: Job[Any] = Job(self, *self._run_now(schedule))
        return self._link.connect().watch(job)

    def stop(self, *, at_once: bool = False) -> None:
        """End the pool for everybody, as `Pool.stop` does; `at_once` gives running jobs no grace period."""
        connection = self._link.connect()
        supervisor = process.watch(self._link.read_table().supervisor_pid)
        with contextlib.suppress(SupervisorLost):
            connection.request("stop", at_once=at_once)
        _wait_for_end(supervisor, _END_TIMEOUT + connection.welcome["settings"]["job_defaults"]["grace_period"])

    def wait_for_end(self, timeout: float | None) -> bool:
        """Wait until the pool has ended; return whether it has within `timeout` seconds (None: for ever)."""
        return _wait_for_end(process.watch(self._link.read_table().supervisor_pid), timeout)

    def disconnect(self) -> None:
        """Let go of the supervisor; the next call that asks it connects anew."""
        self._running.disconnect()

    def disconnect_if_unused(self) -> None:
        """Let go of the supervisor, unless a thread waits for its reply; the next call that asks it connects anew."""
        self._running.disconnect_if_unused()

    def close(self) -> None:
        """Let go of the pool."""
        self._running.close()


def _wait_for_end(supervisor: process.WatchedProcess | None, timeout: float | None) -> bool:
    if supervisor is None:
        return True
    try:
        while timeout is None:
            timeout = None if not supervisor.wait(_MAX_WAIT) else 0.0
        return supervisor.wait(timeout)
    finally:
        supervisor.close()


def find_pools(directory: str | None = None) -> list[rundir.RunDir]:
    """Return the pools of this user on this host, private ones and those of killed supervisors among them."""
    return [pool for base in rundir.existing_bases(directory) for pool in rundir.list_pools(base)]


def find_pool(name: str, directory: str | None = None) -> rundir.RunDir | None:
    """Return the pool of that name, a running one where there are several; None if there is none."""
    found = [pool for pool in find_pools(directory) if pool.name == name]
    return next((pool for pool in found if rundir.is_held(pool.lock)), found[0] if found else None)
