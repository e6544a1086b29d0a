"""Links between a pool's face and its supervisor: the connection that is made when it is needed, and the shared table.

A link knows nothing of the faces that hold it. It is made anew after a fork, in which the connection stays the parent's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, TypeVar

from procjobs.client import launcher, takeover
from procjobs.client.connection.caller import Caller
from procjobs.client.connection.connection import Connection
from procjobs.client.connection.interruptible import Exclusive
from procjobs.client.greeting import close_reads, greet, map_table
from procjobs.client.pool_warnings import describe_differences, warn, warn_about, warn_of
from procjobs.client.scheduling import ClientSchedules, ScheduleSender
from procjobs.clock import monotonic
from procjobs.errors import (
    ConfigurationError,
    PoolClosed,
    PoolNotRunning,
    SettingsDiffer,
    SupervisorLost,
    SupervisorRefused,
)
from procjobs.host import observe, ownership, payload, process
from procjobs.shared.table.post_mortem import PostMortemTable
from procjobs.shared.wire import WIRE_VERSION

if TYPE_CHECKING:
    import socket
    from collections import deque
    from collections.abc import Callable, Mapping, Sequence

    from procjobs.client.code import Code
    from procjobs.client.connection.failover import OnLost
    from procjobs.client.connection.handle import Handle
    from procjobs.client.connection.handshake import Greeting
    from procjobs.client.connection.unacknowledged import Unacknowledged
    from procjobs.host.rundir import RunDir
    from procjobs.schedules.declared import ScheduledCall
    from procjobs.settings.plan import Plan

H = TypeVar("H", bound="Handle")
T = TypeVar("T")
STOP_TIMEOUT: Final = 30.0
"""How long the end of a supervisor is waited for, beyond the grace period of its jobs."""

_links: weakref.WeakSet[PoolLink] = weakref.WeakSet()


class Link(ABC):
    """The connection to the supervisor of one pool and the pool's table. `label` names the pool in messages."""

    def __init__(self, name: str | None, label: str, directory: RunDir, table: PostMortemTable | None) -> None:
        """A pool without a name is private to the process that made it."""
        self.name = name
        self.label = label
        self.directory = directory
        self.exclusive = Exclusive(nests=True)
        self.closed = False
        self.connection: Connection | None = None
        self.table = table

    @abstractmethod
    def connect(self) -> Connection:
        """Return the connection to the supervisor, made if there is none that works."""

    def persist(self, act: Callable[[Connection], T]) -> T:
        """Return what `act` returns; it is tried again over the next connection where it finds the supervisor lost.

        More than one can be lost in a row: that of this process, and the one of a service that takes the pool over.
        """
        given_up_at = monotonic() + launcher.START_TIMEOUT
        while True:
            try:
                return act(self.connect())
            except SupervisorLost:
                if monotonic() > given_up_at:
                    raise

    def renewal(self) -> dict[str, Any]:
        """Return how a reload is to renew this process's generation; nothing for one that submits nothing."""
        return {}

    def read_table(self) -> PostMortemTable:
        """Return the table as it is mapped here; raise PoolClosed once the pool was let go of."""
        table = self.table
        if self.closed or table is None:
            raise PoolClosed(f"{self.label} was shut down; make a new Pool")
        return table

    def read_last_table(self) -> PostMortemTable:
        """Return the table as `read_table` does, also after the pool was let go of, if it was used."""
        return self.table or self.read_table()

    def read_present_table(self) -> PostMortemTable:
        """Return the table of the supervisor that runs now, or of the last one; raise as `read_table`."""
        table = self.read_table()
        return self.renew_table(table) if self._was_replaced(table) else table

    def renew_table(self, table: PostMortemTable) -> PostMortemTable:
        """Return the table of the supervisor that runs now, where another one has begun since `table` was mapped."""
        return self.exclusive.run(self._renew_table, table)

    def _renew_table(self, table: PostMortemTable) -> PostMortemTable:
        if self._was_replaced(table):
            with contextlib.suppress(FileNotFoundError):  # it is being made, or has gone again
                self.table = PostMortemTable(self.directory.table, loads=payload.loads)
        return self.read_table()

    def _was_replaced(self, table: PostMortemTable) -> bool:
        try:
            return table is self.table and table.file_id != os.stat(self.directory.table).st_ino
        except FileNotFoundError:
            return False


class Linked:
    """Base of the halves of a pool that read and ask through its link."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def _directory(self) -> RunDir:
        """The names of the files that the pool has on the host: log, socket, table, lock."""
        return self._link.directory


class PoolLink(Link):
    """The link of a `Pool`: it starts the supervisor if need be, and moves on to its successor if it is lost.

    The supervisor of a private pool is a child of this process.
    """

    def __init__(
        self, plan: Plan, code: Code, label: str, directory: RunDir, declared: Sequence[ScheduledCall] | None = None
    ) -> None:
        """`declared` are the schedules that this process's code has, None if it says nothing about schedules."""
        super().__init__(plan.name, label, directory, None)
        self.plan = plan
        self.code = code
        self.caller = Caller(code.spec["sys_path"])
        self.schedules = ClientSchedules(ScheduleSender(self.caller, plan.job_defaults, label), declared)
        self._owner_pid = os.getpid()
        self._retired: list[Connection] = []
        self._finalizer: weakref.finalize[..., PoolLink] = weakref.finalize(self, _nothing)
        _links.add(self)

    @property
    def is_private(self) -> bool:
        """Whether the pool belongs to the process that made it."""
        return self.name is None

    @property
    def is_owner(self) -> bool:
        """Whether the pool is private and this process made it."""
        return self.name is None and os.getpid() == self._owner_pid

    # To a supervisor --------------------------------------------------------------------------------------------

    @property
    def may_start(self) -> bool:
        """Whether this process starts the supervisor if there is none."""
        return self.plan.client.start or self.is_private

    @property
    def is_connected(self) -> bool:
        """Whether calls find a connection that works, as far as is known."""
        return self.connection is not None and not self.connection.lost

    def begin(self) -> None:
        """Connect before the pool is used; where this process starts no supervisor, only to one that is there.

        A process of a pool connects when it uses another one. Does nothing once the pool was let go of.
        """
        if self.closed:
            return
        if self.is_private or (self.may_start and observe.own_mark() is None):
            self.connect()
            return
        if observe.own_mark() is not None:
            return
        with contextlib.suppress(PoolNotRunning):
            self.exclusive.run(self._connect, 0.0)

    def connect(self) -> Connection:
        """Return the connection to the supervisor, made if there is none; start the supervisor if need be.

        Where this process does not start it, wait for it, up to `start_timeout` seconds, and raise PoolNotRunning then.
        """
        # Counted from here, and not from when other threads that wait for the same have given up.
        return self.exclusive.run(self._connect, monotonic() + self.plan.start_timeout)

    def read_table(self) -> PostMortemTable:
        """Return the table as it is mapped here, connecting first where that was left out; raise PoolClosed."""
        if self.table is None and not self.closed:
            self.connect()
        return super().read_table()

    def _connect(self, deadline: float, may_start: bool = True) -> Connection:
        if self.closed:
            raise PoolClosed(f"{self.label} was shut down; make a new Pool")
        connection = self.connection
        if connection is not None and not connection.lost:
            return connection
        if connection is not None:
            connection.start_receiving()  # it settles what is awaited; not waited for: it may be waiting for this very lock
            if connection not in self._retired:
                self._retired = [former for former in self._retired if former.is_receiving()] + [connection]
            self._reap_child(connection)
        former = connection
        connection, greeting, table = self._reach_supervisor(deadline, may_start=may_start)
        if former is not None and greeting.welcome["settings"].get("store") is not None:
            connection.cancel_again(former)
        self._finalizer.detach()
        self._finalizer = weakref.finalize(self, _let_go, connection, self.is_owner)
        self._finalizer.atexit = False
        # The table before is not closed: another thread may be reading it. It goes with its last reader.
        self.table = table
        self.connection = connection
        self._compare_settings(greeting.welcome["settings"])
        warn_of(self.label, greeting.news)
        if self.schedules.need(table):
            connection.start_receiving()  # it notices, and follows, if it is lost
        self.schedules.declare_again(connection)
        return connection

    def _reach_supervisor(self, appears_by: float, *, may_start: bool) -> tuple[Connection, Greeting, PostMortemTable]:
        """Return a connection that has said hello; one to a supervisor that was just ending is tried again."""
        deadline = monotonic() + launcher.START_TIMEOUT
        while True:
            sock = self._reach_socket(appears_by, may_start=may_start)
            try:
                greeting = greet(sock, self.code, self.directory)
                table = map_table(self.directory, greeting.welcome["pid"])
            except BaseException as error:
                is_older = isinstance(error, SupervisorRefused) and self._may_replace(error.supervisor)
                is_final = not is_older and (not isinstance(error, SupervisorLost) or monotonic() > deadline)
                if is_final and self.is_owner and self.connection is None:
                    self._end_unused(ownership.peer_pid(sock))
                sock.close()
                if is_older:
                    self._replace_older()
                elif is_final:
                    raise
            else:
                return self._make_connection(sock, greeting, table), greeting, table

    def _end_unused(self, supervisor_pid: int) -> None:
        """End the supervisor of a pool that was never used: it would live as long as this process."""
        process.kill_process(supervisor_pid, signal.SIGTERM)
        process.wait_for_child(supervisor_pid, STOP_TIMEOUT)

    def _may_replace(self, supervisor: Mapping[str, Any]) -> bool:
        """Return whether a pool is run by an older release than this process, and by nobody's order."""
        is_older = int(supervisor.get("wire", WIRE_VERSION)) < WIRE_VERSION
        return is_older and not supervisor.get("served") and not self.is_private and self.may_start

    def _replace_older(self) -> None:
        """Have a supervisor of an older release hand the pool over, and start one of this release."""
        lock = takeover.take_lock(self.directory, lambda _pid, _running: None, launcher.START_TIMEOUT)
        launcher.start_with_lock(self.directory, self.plan.for_supervisor(), lock)

    def _reach_socket(self, appears_by: float, *, may_start: bool) -> socket.socket:
        if not (may_start and self.may_start):
            sock = launcher.await_pool(self.directory, appears_by, lambda: self.closed)
            if sock is None:
                raise self._not_served()
        elif self.is_private and not self.is_owner:
            sock = launcher.try_connect(self.directory)
            if sock is None:
                raise PoolClosed("the process that made this private pool has ended it")
        else:
            sock = launcher.reach(self.directory, self.plan.for_supervisor, private=self.is_private)
        return sock

    def _not_served(self) -> PoolClosed | PoolNotRunning:
        if self.closed:
            return PoolClosed(f"{self.label} was shut down while it waited for its supervisor")
        return PoolNotRunning(
            f"nothing serves pool {self.name!r} (no supervisor came within start_timeout="
            f"{self.plan.start_timeout:g} s), and this process starts none (start=False): "
            f"start it with `procjobs serve {self.name}` or its service"
        )

    def _make_connection(self, sock: socket.socket, greeting: Greeting, table: PostMortemTable) -> Connection:
        return Connection(
            sock, greeting, table, self.directory.path, submit_timeout=self.plan.client.submit_timeout, caller=self.caller,
            on_lost=_move_weakly(self), on_notice=warn_about(self.label),
        )  # fmt: skip

    def _compare_settings(self, running: Mapping[str, Any]) -> None:
        """Warn (or raise, if strict) where settings that were given here are not those of the running pool."""
        message = describe_differences(self.plan, running)
        if message and self.plan.client.strict:
            self.leave()
            raise ConfigurationError(message)
        if message:
            warn(message, SettingsDiffer)

    def move_to_successor(self, waiting: Unacknowledged, kept: deque[Handle]) -> None:
        """Let the supervisor there is now have the jobs of a lost one; those that it could not take stay in `waiting`.

        It is asked for the answers of those `kept` in the store.

        Where both are empty, it is needed only for the schedules that this process has made or declared: a pool that was
        killed goes on with them, one that was stopped does not.

        For the receiver thread of the lost connection. Where warnings are errors there is nobody to catch them here; once
        one was given, the connection stands, and the next call finds it.
        """
        if not waiting and not kept and not self._needs_successor():
            return
        with contextlib.suppress(Warning):
            self.connect()
            waiting.end_expired()
            # Together, so that a shutdown finds the jobs with the one connection or with the other.
            self.exclusive.run(lambda: self.connect().take_over(waiting, kept))

    def _needs_successor(self) -> bool:
        """Return whether there are schedules to go on with, and the pool's supervisor was killed or replaced."""
        connection, table = self.connection, self.table
        if connection is None or not connection.lost or table is None or self.closed or not self.schedules.need(table):
            return False
        supervisor = process.watch(connection.welcome["pid"])
        if supervisor is not None:
            supervisor.wait(STOP_TIMEOUT)  # one that was stopped removes its files, the lock last
            supervisor.close()
        return os.path.exists(self.directory.lock)

    def renewal(self) -> dict[str, Any]:
        """Return how a reload is to renew this process's generation: in the environment that this process has now."""
        self.code = self.code.renewed()
        return {"key": self.code.key, "environment": self.code.spec["environment"]}

    def watch(self, handle: H) -> H:
        """Ask for the answer of a job that another process submitted; return the handle that will get it."""
        return self.persist(lambda connection: connection.watch(handle))

    def worker_count(self) -> int:
        """Return how many workers the pool has at the most, as it was when this process connected."""
        min_and_max: tuple[int, int] = self.connect().welcome["settings"]["workers"]
        return min_and_max[1]

    # The end ----------------------------------------------------------------------------------------------------

    def mark_closed(self) -> bool:
        """Let nobody connect any more; return whether that was so before."""
        was_closed, self.closed = self.closed, True
        return was_closed

    def connect_last(self) -> Connection | None:
        """Return the connection for the end of the pool, None if there never was one, and let nobody connect after this."""
        return self.exclusive.run(self._connect_last)

    def _connect_last(self) -> Connection | None:
        connection = self.connection
        if not self.closed:
            # One that this process has not used is not started for its end; but what a killed one has left is cleared away.
            may_start = self.may_start and (connection is not None or os.path.exists(self.directory.lock))
            with contextlib.suppress(PoolNotRunning):
                connection = self._connect(monotonic() + launcher.START_TIMEOUT if may_start else 0.0, may_start)
        for former in [*self._retired, connection]:
            if former is not None:
                former.lifecycle.is_stop_asked = True
        self.closed = True
        return connection

    def leave(self) -> None:
        """Let go of a pool that others may use; answers that are awaited here still come."""
        self.mark_closed()
        self._finalizer.detach()
        if self.connection is not None:
            self.connection.close_when_idle()
            close_reads(self.connection)

    def release(self, connection: Connection) -> None:
        """Close the last connection, and wait for the end of those before it and of the supervisor that is a child.

        A copy of the table stays, so that what was last known of the jobs can still be read.
        """
        self._finalizer.detach()
        connection.close()
        close_reads(connection)
        for former in self._retired:
            former.wait_for_end(None)
        if self.is_owner:
            self._reap_child(connection)
            launcher.wait_for_end(self.directory, STOP_TIMEOUT)
        self.table = None if self.table is None else self.table.snapshot()

    def _reap_child(self, connection: Connection) -> None:
        """Reap the supervisor if it is a child of this process: that of a private pool is."""
        if self.is_owner:
            process.wait_for_child(connection.welcome["pid"], STOP_TIMEOUT)

    def forget_parent(self) -> None:
        """Forget the parent's connection after a fork; this process makes its own when it needs one."""
        self.exclusive = Exclusive(nests=True)
        self._finalizer.detach()
        for connection in [*self._retired, self.connection]:
            if connection is not None:
                connection.close_inherited()
        self._retired = []
        self.connection = None


def _nothing() -> None:
    pass


def _move_weakly(link: PoolLink) -> OnLost:
    """Return the link's `move_to_successor` for a connection, whose receiver must not keep a forgotten pool alive.

    Handles keep it alive, through their pool, so the link is there as long as there is a job to move.
    """
    reference = weakref.ref(link)

    def move(waiting: Unacknowledged, kept: deque[Handle]) -> None:
        present = reference()
        if present is None:
            raise PoolClosed("nobody holds the pool any more")
        present.move_to_successor(waiting, kept)

    return move


def _let_go(connection: Connection, is_owner: bool) -> None:
    """Let go of a pool that was forgotten without a shutdown; nobody holds a handle of its jobs either."""
    if is_owner:
        connection.requests.post_stop()
    connection.close()
    if is_owner:
        process.wait_for_child(connection.welcome["pid"], STOP_TIMEOUT)


def _after_fork() -> None:
    for link in list(_links):
        link.forget_parent()


os.register_at_fork(after_in_child=_after_fork)
