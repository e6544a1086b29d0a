"""The pool as users hold it."""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import json
import os
import sys
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from procjobs.client import launcher
from procjobs.client import orm_arguments as attached
from procjobs.client.code import describe_code
from procjobs.client.connection.connection import Connection
from procjobs.client.connection.kinds import OPTIONS_ATTRIBUTE, function_name
from procjobs.client.connection.unacknowledged import Unacknowledged
from procjobs.client.controls import Controls
from procjobs.client.job import Job
from procjobs.client.monitor import Monitor
from procjobs.client.shutdown import Ending, abandon
from procjobs.client.submitter import Submitter, WithOptions
from procjobs.clock import monotonic
from procjobs.errors import (
    ConfigurationError,
    PoolClosed,
    PoolDegraded,
    QueueFull,
    SettingsDiffer,
    SupervisorLost,
    UnknownJob,
)
from procjobs.host import payload, process, rundir
from procjobs.settings import plan as settings
from procjobs.shared import store_address as address
from procjobs.shared.config import UNSET, JobOptions, PoolSettings, Threads, Workers, check_pool_name
from procjobs.shared.ids import from_text, new_id, to_text
from procjobs.shared.queues import refuse_queue
from procjobs.shared.table.post_mortem import PostMortemTable
from procjobs.shared.table.reader import ProgressTable

if TYPE_CHECKING:
    from procjobs.shared.queues import Queue
    from procjobs.sql.configuration import Database

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_UNLOOKED = 100
"""The most submissions between two looks at how many jobs wait."""
_LOOK_SECONDS = 0.001


class Pool(Submitter, Monitor, Controls, Ending, concurrent.futures.Executor):
    """A pool of worker processes: this process's own, or with a name the host's.

    `Pool()` is private: it ends with the process that made it. `Pool("media")` is shared by all processes of this user
    on this host: the first one starts it, and it ends `linger` seconds after the last one has let go and no job is left.
    A Pool made before a fork works in the child.

    What is not given is taken from the environment or a settings file, else it is the default: docs/settings.md lists
    them, and `procjobs check --all` shows what holds.

    workers: how many, or "auto" (as many as CPUs and memory allow), or (least, most) to scale between them: the pool grows
        while jobs wait and the host has CPUs and memory left, and shrinks when workers were not needed for `worker_idle`
        seconds.
    reserve: how many CPUs "auto" leaves to the web server; "auto" decides that too (procjobs.host.sizing).
    timeout, soft_timeout, stall_timeout, retries, max_rss, grace_period: defaults for jobs; see `options`.
    max_jobs_per_worker: replace a worker after so many jobs.
    preload: names of modules to import once, before workers are forked; memory is shared.
    initializer, initargs: called in each new worker before its first job.
    database: a URL, or a function that returns an Engine, sessionmaker, scoped_session, AsyncEngine or async_sessionmaker:
        see `procjobs.sql`.
    start_timeout: how long a preload or an initializer may take until it is ended and tried again. Seconds.
    nice: added to the workers' niceness; 10 leaves the CPUs to the web server where it needs them.
    threads: how many threads numeric libraries (BLAS, OpenMP, numba, polars) start in a worker; "auto" is its share of the
        CPUs, and leaves alone what the environment says; None sets nothing.
    affinity: which CPUs a worker runs on: None for all, "spread" for a share of its own, or their numbers, for all workers.
    queues: limits that jobs share, by the name that they give as `queue`: {"mail": procjobs.Queue(limit=2, rate="100/m")}.
    max_queued: submit raises QueueFull beyond so many waiting jobs.
    result_ttl: seconds for which results are kept for readers by id. result_memory_bytes: how much of them in memory.
    store: keep jobs in a database, so that they survive whatever is killed: a URL (sqlite:///jobs.db,
        postgresql+psycopg://...), or True for a file in the user's state directory. See docs/store.md.
    history_ttl, history_limit: how long (seconds), and how many, jobs stay in the store that have ended.
    version: what tells one deploy's code from another's; by default the state of the preloaded files.
    submit_timeout: how long submit waits for a supervisor that takes no bytes. Seconds.
    strict: raise ConfigurationError, instead of warning, when a running pool has other settings than given here.
    directory: where the pool's socket and table are; by default chosen as in `procjobs.host.rundir`.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        workers: Workers = UNSET,
        reserve: int | Literal["auto"] = UNSET,
        max_workers: int | None = None,
        timeout: float | None = UNSET,
        soft_timeout: float | None = UNSET,
        stall_timeout: float | None = UNSET,
        retries: int = UNSET,
        max_rss: int | None = UNSET,
        grace_period: float = UNSET,
        max_jobs_per_worker: int | None = UNSET,
        preload: Sequence[str] = UNSET,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        database: Database | None = None,
        start_timeout: float = UNSET,
        nice: int = UNSET,
        threads: Threads = UNSET,
        affinity: Iterable[int] | Literal["spread"] | None = UNSET,
        worker_idle: float = UNSET,
        queues: Mapping[str, Queue | Mapping[str, Any]] = UNSET,
        max_queued: int = UNSET,
        result_ttl: float = UNSET,
        result_memory_bytes: int = UNSET,
        linger: float = UNSET,
        store: str | bool | None = UNSET,
        history_ttl: float = UNSET,
        history_limit: int = UNSET,
        version: str | None = UNSET,
        submit_timeout: float = UNSET,
        strict: bool = UNSET,
        directory: str | None = None,
    ) -> None:
        given = settings.given_settings(locals())
        process.check_platform()
        self.name = None if name is None else check_pool_name(name)
        self._plan = settings.make_plan(self.name, given)
        self._job_defaults, client = self._plan.job_defaults, self._plan.client
        self._directory = rundir.RunDir(rundir.find_base(directory), self.name or _private_name())
        rundir.check_socket_path(self._directory)
        self._submit_timeout = client.submit_timeout
        self._key, self._spec = describe_code(client.preload, initializer, initargs, client.version, database)
        self._changes: Mapping[str, Any] = {}
        self._options_cache: dict[Any, JobOptions] = {}
        self._begin_unconnected()
        self._connect()
        _pools.add(self)

    def _begin_unconnected(self) -> None:
        self._lock = threading.RLock()
        self._owner_pid = os.getpid()
        self._child_pid: int | None = None
        self._closed = False
        self._connection: Connection | None = None
        self._retired: list[Connection] = []
        self._finalizer: weakref.finalize[..., Pool] = weakref.finalize(self, _nothing)
        self._table: ProgressTable | None = None
        self._room_until, self._room_expires_at = 0, 0.0

    @property
    def is_private(self) -> bool:
        """Whether the pool belongs to the process that made it."""
        return self.name is None

    def __repr__(self) -> str:
        return f"<Pool {self.name or 'private'}>"

    # The connection -------------------------------------------------------------------------------------------

    def _connect(self) -> Connection:
        """Return the connection to the supervisor, made if there is none; start the supervisor if need be."""
        with self._lock:
            if self._closed:
                raise PoolClosed(f"{self!r} was shut down; make a new Pool")
            connection = self._connection
            if connection is not None and not connection.lost:
                return connection
            if connection is not None:
                connection.retire()  # not waited for: its receiver may be waiting for this very lock
                self._retired = [former for former in self._retired if former.is_receiving()] + [connection]
                self._let_child_go()
            connection = self._reach_supervisor()
            tell = weakref.WeakMethod(self._on_notice)  # the receiver thread must not keep a forgotten pool alive
            connection.on_notice = lambda problem: (method := tell()) and method(problem)
            self._finalizer.detach()
            is_owner = self.is_private and os.getpid() == self._owner_pid
            self._finalizer = weakref.finalize(self, abandon, connection, self._child_pid, is_owner)
            self._finalizer.atexit = False
            # The table before is not closed: another thread may be reading it. It goes with its last reader.
            self._table = connection.table
            self._connection = connection
            self._compare_settings(connection.welcome["settings"])
            self._on_notice(connection.welcome["problem"])
            return connection

    def _reach_supervisor(self) -> Connection:
        """Return a connection that has said hello; one to a supervisor that was just ending is tried again."""
        deadline = monotonic() + launcher.START_TIMEOUT
        while True:
            if self.is_private and os.getpid() != self._owner_pid:
                sock = launcher.try_connect(self._directory)
                if sock is None:
                    raise PoolClosed("the process that made this private pool has ended it")
            else:
                sock, self._child_pid = launcher.reach(self._directory, self._plan.for_supervisor, private=self.is_private)
            connection = Connection(sock, self._directory.path, submit_timeout=self._submit_timeout)
            try:
                spec_fd = launcher.memory_file(json.dumps(self._spec).encode(), self._directory.base)
                try:
                    connection.say_hello(self._key, spec_fd, launcher.interpreter())
                finally:
                    os.close(spec_fd)
                connection.table = self._map_table(connection.welcome["pid"])
            except BaseException as error:
                connection.close()
                self._let_child_go()
                if not isinstance(error, SupervisorLost) or monotonic() > deadline:
                    raise
            else:
                return connection

    def _map_table(self, supervisor_pid: int) -> PostMortemTable:
        """Return the table of the supervisor that has just answered; raise SupervisorLost if there is no such table."""
        try:
            table = PostMortemTable(self._directory.table, loads=payload.loads)
        except FileNotFoundError:
            table = None
        if table is None or table.supervisor_pid != supervisor_pid:
            raise SupervisorLost("the supervisor was replaced in the very moment when it was reached")
        return table

    def send_again(self, waiting: Unacknowledged, kept: deque[Job[Any]]) -> None:
        """Let the supervisor there is now have what its predecessor did not take; what it could not is left in `waiting`.

        It is asked for the answers of those `kept` in the store.

        For the receiver thread of that connection. Where warnings are errors there is nobody to catch them here; once one
        was given, the connection stands, and the next call finds it.
        """
        with contextlib.suppress(Warning):
            self._connect()
            waiting.end_expired()
            with self._lock:  # so a shutdown finds the jobs with the one connection or with the other
                self._connect().take_over(waiting, kept)

    def _compare_settings(self, running: Mapping[str, Any]) -> None:
        """Warn (or raise, if strict) where settings that were given here are not those of the running pool."""
        there = PoolSettings.from_json(running)
        different = there.differences(self._plan.asked_of(there))
        if different:
            text = ", ".join(f"{n}={theirs!r} ({self._here(n)}{asked!r})" for n, (theirs, asked) in different.items())
            text = address.hide_password(text)
            message = f"pool {self.name!r} is running with other settings, which hold: {text}"
            if self._plan.client.strict:
                self.shutdown(wait=False)
                raise ConfigurationError(message)
            warnings.warn(message, SettingsDiffer, stacklevel=4)

    def _here(self, setting: str) -> str:
        origin = self._plan.origin(setting)
        return "here " if origin.kind == "argument" else f"by {origin.where} "

    def _on_notice(self, problem: str | None) -> None:
        if problem:
            warnings.warn(f"{self!r} cannot run jobs at the moment: {problem}", PoolDegraded, stacklevel=2)

    def _after_fork_in_child(self) -> None:
        """Forget the parent's connection; this process makes its own when it needs one."""
        self._lock = threading.RLock()
        self._child_pid = None
        self._finalizer.detach()
        for connection in [*self._retired, self._connection]:
            if connection is not None:
                connection.close_inherited()
        self._retired = []
        self._connection = None

    def _target(self) -> Pool:
        return self

    def worker_count(self) -> int:
        """Return how many workers the pool has at the most, as it was when this process connected."""
        least_and_most: tuple[int, int] = self._connect().welcome["settings"]["workers"]
        return least_and_most[1]

    # Submitting -----------------------------------------------------------------------------------------------

    def submit_with(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        changes: Mapping[str, Any],
        delay: float,
        expires: float,
        key: bytes,
        handle: Job[Any] | None = None,
    ) -> Job[Any]:
        """Submit a call with changes to the default options; what `submit` does."""
        if not callable(fn):
            raise TypeError(f"{fn!r} cannot be called; submit() takes a function and its arguments")
        if attached.ORM in sys.modules:
            attached.refuse(fn, args, kwargs)
        options = self._job_defaults
        own = getattr(fn, OPTIONS_ATTRIBUTE, None)
        if own or changes:
            options = self.merged_options(own or {}, changes)
        connection = self._connection
        if connection is None or connection.lost or self._closed:
            connection = self._connect()
        if connection.sent >= self._room_until or monotonic() >= self._room_expires_at:
            self._check_room(connection)
        try:
            kind = connection.register(fn, options)
            job: Job[Any] = handle or Job(self, new_id(), kind.name)
            connection.submit(job, kind, fn, args, kwargs, options, delay, expires, key)
        except SupervisorLost:  # it had gone before the job was sent whole, so the job cannot have run
            connection = self._connect()
            kind = connection.register(fn, options)
            job = handle or Job(self, new_id(), kind.name)
            connection.submit(job, kind, fn, args, kwargs, options, delay, expires, key)
        return job

    def submit_unique(
        self,
        call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]],
        changes: Mapping[str, Any],
        delay: float,
        expires: float,
        key: bytes,
        seconds: float,
    ) -> Job[Any]:
        """Submit a call unless a job has its key; return that one's handle then. Waits for the supervisor's reply."""
        fn, args, kwargs = call
        options = self.merged_options(getattr(fn, OPTIONS_ATTRIBUTE, None) or {}, changes)
        job: Job[Any] = Job(self, new_id(), options.name or function_name(fn))
        try:
            connection, holder = self._claim_key(job, key, seconds)
        except SupervisorLost:  # nothing has come of it; its successor is asked
            connection, holder = self._claim_key(job, key, seconds)
        if holder != job.id:
            connection.expect_no_more(job)
            return connection.watch(Job(self, from_text(holder), job.name))
        try:
            return self.submit_with(fn, args, kwargs, changes, delay, expires, key, job)
        except BaseException:
            connection.expect_no_more(job)
            job.abandon(UnknownJob(f"job {job.id} {job.name}, which has the key, was not submitted"))
            with contextlib.suppress(SupervisorLost):
                connection.request("release_key", id=from_text(job.id).hex())
            raise

    def _claim_key(self, job: Job[Any], key: bytes, seconds: float) -> tuple[Connection, str]:
        """Return the id of the job that holds a key, and the connection that was asked.

        Another thread may be told of this job before it is submitted, and is to find its handle.
        """
        connection = self._connect()
        connection.expect(job)
        claim: dict[str, Any] = {"key": key.hex(), "id": from_text(job.id).hex(), "seconds": seconds}
        return connection, to_text(bytes.fromhex(connection.request("claim_key", **claim)["id"]))

    def merged_options(self, own: Mapping[str, Any], changes: Mapping[str, Any]) -> JobOptions:
        """Return the options of a job: one object for the same ones, so that the connection recognises it."""
        merged = {**own, **changes}
        key = tuple(sorted(merged.items()))
        options = self._options_cache.get(key)
        if options is None:
            if len(self._options_cache) > 1000:
                self._options_cache.clear()
            options = self._options_cache[key] = self._job_defaults.but(merged)
            self._check_queue(options)
        return options

    def check_options(self, changes: Mapping[str, Any]) -> None:
        """Raise ConfigurationError for options that no job can have."""
        self._check_queue(self._job_defaults.but(changes))

    def _check_queue(self, options: JobOptions) -> None:
        """Raise ConfigurationError for a queue that the pool does not have, as far as is known here."""
        connection = self._connection
        if options.queue is not None and connection is not None:
            refusal = refuse_queue(options.queue, connection.welcome["settings"].get("queues", {}), self.name)
            if refusal:
                raise ConfigurationError(refusal)

    def _check_room(self, connection: Connection) -> None:
        """Raise QueueFull if the pool has as many waiting jobs as it takes.

        The counters are exact for what has been acknowledged. Near the bound, what is under way may or may not be among
        them, and its acknowledgement is waited for. Far from it, the next look is due after some submissions or a
        millisecond: a look costs 2 us, and the supervisor has the last word.
        """
        most = connection.welcome["settings"]["max_queued"]
        waiting = self._count_waiting()
        if waiting < most <= waiting + connection.unaccepted():
            connection.wait_all_accepted(self._submit_timeout)
            waiting = self._count_waiting()
        room = most - waiting - connection.unaccepted()
        self._room_until = connection.sent + min(room // 8, _UNLOOKED)
        self._room_expires_at = monotonic() + _LOOK_SECONDS
        if waiting >= most:
            raise QueueFull(
                f"{self!r} has {waiting} jobs waiting, as many as max_queued allows; try again later",
                queued=waiting,
                max_queued=most,
                estimated_wait=self._read_table().counters().estimated_wait,
            )

    def _count_waiting(self) -> int:
        counters = self._read_table().counters()
        return counters.queued + counters.scheduled

    def options(self, **changes: Any) -> WithOptions:
        """Return this pool with other options for the jobs that are submitted through what is returned.

        timeout: seconds it may run; then its processes get SIGTERM and, after `grace_period`, SIGKILL.
        soft_timeout: seconds after which JobTimeout is raised inside the job.
        stall_timeout: seconds in which it neither reports progress nor uses CPU time, after which it is stopped.
        max_rss: bytes of resident memory that its processes may use together, beyond what the worker had at its start.
        slow_after: seconds after which its stack is written to the pool's log.
        max_crashes: after so many killed workers it is quarantined.
        retries: how often it is started again after it failed; `backoff`, `max_backoff`: see `JobOptions`.
        priority: higher ones start first. name: what it is called in records.
        delay: seconds to wait before it may start; `at`: a Unix time or datetime instead.
        expires: seconds after which it is not started any more.
        queue: the name of one of the pool's `queues`, whose limits it shares.
        key: of the jobs with the same key, one runs at a time (in a queue: as many as its `key_limit` says).
        unique: of the jobs with the same key, there is one: while it has not ended, or with a number of seconds also for
            so long after its submission, submit returns its handle instead of submitting another one.
        cancel_on_disconnect: cancel it when no process that waits for it is connected any more.
        keep_children: let what it has started run on after it returned, until its worker ends.
        """
        return WithOptions(self, changes)

    # By id ---------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> Job[Any]:
        """Return a handle of a job that was submitted anywhere; its result is asked for at once.

        Raise UnknownJob as `status` does. The result is there for `result_ttl` seconds after the job ended.
        """
        status = self.status(job_id)
        job: Job[Any] = Job(self, from_text(job_id), status.name)
        return self._connect().watch(job)


def _private_name() -> str:
    return f"{rundir.PRIVATE_PREFIX}{os.getpid()}-{os.urandom(6).hex()}"


def _nothing() -> None:
    pass


def _after_fork() -> None:
    for pool in list(_pools):
        pool._after_fork_in_child()  # noqa: SLF001 - of this module


def _at_exit() -> None:
    for pool in list(_pools):
        pool.finish_at_exit()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
