"""The pool as users hold it."""

from __future__ import annotations

import atexit
import concurrent.futures
import functools
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from procjobs.client.awaiting import awaitable
from procjobs.client.code import Code, describe_code
from procjobs.client.connection.submission import TERM_NAMES, Terms
from procjobs.client.controls import Controls
from procjobs.client.hooks import Hook, describe_hooks
from procjobs.client.job import Job
from procjobs.client.link import PoolLink
from procjobs.client.monitor import Monitor
from procjobs.client.producer import Producer
from procjobs.client.scheduling import join_declared, resolve_all
from procjobs.client.shutdown import Shutdown
from procjobs.client.submitter import Submitter, WithOptions
from procjobs.errors import ConfigurationError
from procjobs.host import process, rundir
from procjobs.schedules.declared import ScheduledCall
from procjobs.settings.plan import given_settings, make_plan
from procjobs.shared.config import JOB_OPTION_NAMES, UNSET, Threads, Workers, check_pool_name
from procjobs.shared.durations import Seconds, Size, wait_seconds
from procjobs.shared.ids import from_text
from procjobs.shared.suggestions import suggesting

if TYPE_CHECKING:
    from datetime import datetime

    from procjobs.shared.ids import JobId
    from procjobs.shared.queues import Queue
    from procjobs.shared.schedule_records import ScheduleInfo
    from procjobs.sql.configuration import Database

F = TypeVar("F", bound=Callable[..., Any])
_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _explain_option(name: str) -> str | None:
    is_option = name in JOB_OPTION_NAMES | TERM_NAMES
    return f"Pool() has no {name!r}: it is an option of jobs, pool.options({name}=...).submit(...)" if is_option else None


class Pool(Submitter, Monitor, Controls, concurrent.futures.Executor):
    """A pool of worker processes: this process's own, or with a name the host's.

    `Pool()` is private: it ends with the process that made it. `Pool("media")` is shared by all processes of this user
    on this host: the first one starts it, and it ends `linger` seconds after the last one has let go and no job is left.
    A Pool made before a fork works in the child. To make `Pool("media")` starts nothing and waits for nothing: that comes
    with the first call, with `connect()`, or at the begin of a `with` block.

    A setting that is not given comes from the environment or a settings file, else it has its default: docs/settings.md
    lists them, and `procjobs check --all` shows which values hold. Durations are seconds as a number, a timedelta, or a text
    ("500ms", "2m", "1h30m", "7d"); sizes are bytes, or a text ("512M", "1GiB").

    workers: how many, or "auto" or None (as many as CPUs and memory allow), or (min, max) to scale between them: the pool
        grows while jobs wait and the host has CPUs and memory left, and shrinks when workers were not needed for
        `worker_idle` seconds. A worker whose job waits for another job of the pool does not count: a spare one works
        meanwhile. Waits that could never end raise WaitRefused in the job.
    reserve: how many CPUs "auto" leaves to the web server; "auto" decides that too (procjobs.host.sizing).
    timeout, soft_timeout, stall_timeout, retries, max_rss, grace_period: defaults for jobs; see `options`.
    max_jobs_per_worker: replace a worker after this number of jobs.
    preload: names of modules to import once, before workers are forked; memory is shared.
    initializer, initargs: called in each new worker before its first job.
    finalizer: called without arguments in each worker that ends of itself, after its last job: because the pool stops,
        shrinks or reloads its code, or after `max_jobs_per_worker`. It has the `grace_period`. A worker that is killed calls
        nothing. After it come the functions that jobs have registered with `atexit`.
    wrappers: functions, or their names as "module:name", that return a context manager: every job runs inside
        `with wrapper(job):`, the first one outermost. See docs/wrappers.md.
    database: a URL, or a function that returns an Engine, sessionmaker, scoped_session, AsyncEngine or async_sessionmaker:
        see `procjobs.sql`.
    start_timeout: how long a preload or an initializer may take until it is ended and tried again. Seconds.
    nice: added to the workers' niceness; 10 leaves the CPUs to the web server where it needs them.
    threads: how many threads numeric libraries (BLAS, OpenMP, numba, polars) start in a worker; "auto" is its share of the
        CPUs, and leaves alone what the environment says; None sets nothing.
    affinity: which CPUs a worker runs on: None for all, "spread" for a share of its own, or their numbers, for all workers.
    queues: limits that jobs share, by the name that they give as `queue`: {"mail": procjobs.Queue(limit=2, rate="100/m")}.
    max_queued: submit raises QueueFull when this number of jobs waits.
    result_ttl: seconds for which results are kept for readers by id. result_memory_bytes: how much of them in memory.
    store: keep jobs in a database, so that they survive whatever is killed: a URL (sqlite:///jobs.db,
        postgresql+psycopg://...), or True for a file in the user's state directory. See docs/store.md.
    history_ttl, history_limit: how long (seconds), and how many, jobs stay in the store that have ended; retry_ttl: how long
        the calls of those that did not succeed, for `retry`.
    on_failure: a function, its name ("app.jobs:tell"), or several: called with the JobStatus of each job that failed,
        expired or was stopped, in a process of the pool that runs no jobs. See docs/hooks.md.
    hook_timeout: how long one such call may take. Seconds.
    record_arguments: keep the arguments of each job that begins as a short text, for people: `pool.arguments(id)`. They may
        be nobody's business, and their `repr` is called before the job. See docs/records.md.
    schedules: what the pool runs at certain times, as a list of `procjobs.ScheduledCall` and of functions under
        `@procjobs.schedule(...)`; it connects at once then, where it may start the pool. A schedule that an earlier deploy
        has declared, and this one does not, is taken out; so `schedules=[]` takes out all. Schedules of the settings file
        come before these; of two of one name this one is taken. See docs/schedules.md.
    log: the path of the pool's log, which then outlives the pool; `{pool}` in it is the pool's name. By default it is in the
        pool's directory. See docs/log.md.
    version: text that tells the code of one deploy from another; by default the contents of the application's source files.
    environment: variables of the environment, as names or patterns ("STRIPE_*"), that tell one deploy from another as well:
        jobs run with the values that they have here. docs/code.md lists those that always do.
    submit_timeout: how long submit waits for a supervisor that takes no bytes. Seconds.
    strict: raise ConfigurationError, instead of warning, when a running pool has other settings than given here.
    start: False for a process that uses a pool and never starts it, where a service (`procjobs serve`) is in charge: calls
        wait for the pool, up to `start_timeout` seconds, and raise PoolNotRunning then. Making the Pool waits for nothing.
    directory: where the pool's socket and table are; by default chosen as in `procjobs.host.rundir`.
    """

    @suggesting("Pool() has no setting", _explain_option)
    def __init__(
        self,
        name: str | None = None,
        *,
        workers: Workers | None = UNSET,
        reserve: int | Literal["auto"] = UNSET,
        max_workers: int | None = None,
        timeout: Seconds | None = UNSET,
        soft_timeout: Seconds | None = UNSET,
        stall_timeout: Seconds | None = UNSET,
        retries: int = UNSET,
        max_rss: Size | None = UNSET,
        grace_period: Seconds = UNSET,
        max_jobs_per_worker: int | None = UNSET,
        preload: Sequence[str] = UNSET,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        finalizer: Callable[[], Any] | None = None,
        wrappers: Sequence[str | Callable[..., Any]] = UNSET,
        database: Database | None = None,
        start_timeout: Seconds = UNSET,
        nice: int = UNSET,
        threads: Threads = UNSET,
        affinity: Iterable[int] | Literal["spread"] | None = UNSET,
        worker_idle: Seconds = UNSET,
        queues: Mapping[str, Queue | Mapping[str, Any]] = UNSET,
        max_queued: int = UNSET,
        result_ttl: Seconds = UNSET,
        result_memory_bytes: Size = UNSET,
        linger: Seconds = UNSET,
        store: str | bool | None = UNSET,
        history_ttl: Seconds = UNSET,
        history_limit: int = UNSET,
        retry_ttl: Seconds = UNSET,
        log: str | None = UNSET,
        on_failure: Hook | Sequence[Hook] = UNSET,
        hook_timeout: Seconds = UNSET,
        record_arguments: bool = UNSET,
        schedules: Iterable[ScheduledCall | Callable[..., Any]] | None = None,
        version: str | None = UNSET,
        environment: Sequence[str] = UNSET,
        submit_timeout: Seconds = UNSET,
        strict: bool = UNSET,
        start: bool = UNSET,
        directory: str | None = None,
    ) -> None:
        on_failure = describe_hooks("on_failure", on_failure)
        given = given_settings(locals())
        process.check_platform()
        self.name = None if name is None else check_pool_name(name)
        code = functools.partial(
            describe_code, initializer=initializer, initargs=initargs, finalizer=finalizer, database=database
        )
        link = _make_link(self.name, given, directory, code, resolve_all(schedules, self.name))
        Submitter.__init__(self, Producer(link), Terms())
        Monitor.__init__(self, link)
        self._shutdown = Shutdown(link)
        if link.is_private:
            link.connect()
        elif link.schedules.are_there:
            link.begin()
        _pools.add(self)

    @property
    def is_private(self) -> bool:
        """Whether the pool belongs to the process that made it."""
        return self.name is None

    def __repr__(self) -> str:
        return _label(self.name)

    def _status_source(self) -> Pool:
        return self

    @property
    def timeout(self) -> float | None:
        """The `timeout` of its jobs, in seconds, where nothing else is said for them; None without one."""
        return self._producer.default_timeout

    @property
    def store(self) -> str | None:
        """The URL of its store, as this process has it, with its password; None without one."""
        return self._producer.link.plan.store

    def worker_count(self) -> int:
        """Return how many workers the pool has at the most, as it was when this process connected."""
        return self._producer.link.worker_count()

    def options(self, **changes: Any) -> WithOptions:
        """Return this pool with other options for the jobs that are submitted through what is returned.

        timeout: seconds it may run; then JobTimeout is raised in it, and after `grace_period` its processes are killed.
        soft_timeout: seconds after which JobTimeout is raised inside the job.
        stall_timeout: seconds in which it neither reports progress nor uses CPU time, after which it is stopped.
        max_rss: bytes of resident memory that its processes may use together, beyond what the worker had at its start.
        slow_after: seconds after which its stack is written to the pool's log.
        max_crashes: a job that has killed this number of workers is quarantined.
        retries: how often it is started again after it failed; `backoff`, `max_backoff`: see `JobOptions`.
        priority: higher ones start first. name: its name in records.
        delay: seconds to wait before it may start; `at`: a Unix time or datetime instead.
        expires: seconds after which it is not started any more.
        queue: the name of one of the pool's `queues`, whose limits it shares.
        key: of the jobs with the same key, one runs at a time (in a queue: as many as its `key_limit` says).
        unique: of the jobs with the same key, there is one: while it has not ended, or with a number of seconds also for
            so long after its submission, submit returns its handle instead of submitting another one.
        meta: a dict that JSON can carry, of at most 2 KiB: a user's id, a trace header. It is `status.meta` in any process,
            `current_job().meta` in the job, and `history(meta={"user": 7})` finds it. Given again, it replaces the former.
        cancel_on_disconnect: cancel it when no process that waits for it is connected any more.
        keep_children: let the processes that it has started run on after it returned, until its worker ends.
        """
        return WithOptions(self._producer, self, self._terms.but(changes))

    def job(self, job_id: JobId) -> Job[Any]:
        """Return a handle of a job that was submitted anywhere; its result is asked for at once.

        Raise UnknownJob as `status` does. The result is there for `result_ttl` seconds after the job ended.
        """
        status = self.status(job_id)
        job: Job[Any] = Job(self, from_text(job_id), status.name)
        return self._producer.link.watch(job)

    def retry(self, job_id: JobId) -> Job[Any]:
        """Submit a job again that failed, expired or was cancelled: the same call, options, key and meta; return its handle.

        It is a new job, which starts as soon as it can, and whose `status.retry_of` has the id of the old one. It finds the
        last checkpoint of the old one. Without a store, the calls of such jobs are kept as long as their results, in 64 MiB
        at most; with one, for `retry_ttl`. Waits for the supervisor's reply, with a store until the new job is there.

        Raise UnknownJob, or RetryRefused if the job has succeeded or not ended, its call is not kept any more, or it was
        submitted with `unique=` and another job has its key.
        """
        job: Job[Any] = Job(self, *self._repeat(job_id))
        return self._producer.link.watch(job)

    def result(self, job_id: JobId, timeout: Seconds | None = None) -> Any:
        """Wait up to `timeout` (None: for ever) and return what a job returned, or raise how it ended; as `Job.result`.

        The job may have been submitted anywhere. Raise UnknownJob as `status` does.
        """
        return self.job(job_id).result(timeout)

    async def aresult(self, job_id: JobId, timeout: Seconds | None = None) -> Any:
        """Return what `result` returns, or raise what it raises; to be awaited. No thread waits for the job."""
        import asyncio  # see procjobs.client.job

        job = await self.ajob(job_id)
        future = asyncio.shield(asyncio.wrap_future(job))  # the job goes on if this is given up
        return await asyncio.wait_for(future, wait_seconds(timeout))

    ajob = awaitable(job)
    aretry = awaitable(retry)

    # Schedules --------------------------------------------------------------------------------------------------

    @overload
    def schedule(
        self, name: str, fn: None = None, /, *, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
        cron: str | None = None, every: Seconds | None = None, after: Seconds | None = None,
        at: datetime | None = None, tz: str | None = None, anchor: datetime | float | None = None,
        catch_up: str | None = None, overlap: str = "skip", jitter: Seconds = 0, expires: Seconds | None = None,
        **options: Any,
    ) -> Callable[[F], F]: ...  # fmt: skip

    @overload
    def schedule(
        self, name: str, fn: Callable[..., Any], /, *, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
        cron: str | None = None, every: Seconds | None = None, after: Seconds | None = None,
        at: datetime | None = None, tz: str | None = None, anchor: datetime | float | None = None,
        catch_up: str | None = None, overlap: str = "skip", jitter: Seconds = 0, expires: Seconds | None = None,
        **options: Any,
    ) -> ScheduleInfo: ...  # fmt: skip

    def schedule(self, name: str, fn: Callable[..., Any] | None = None, /, **given: Any) -> Any:
        """Have the pool submit a call at certain times, once for each however many processes use it; or decorate one.

        args, kwargs: those of the call. `procjobs.SCHEDULED_FOR` among them stands for the time of the run, aware, in UTC.
        cron: five fields ("30 2 * * *"), six with seconds first, or "@daily" and the like; each local time once, also where
            clocks are set. every: so often, on a grid that does not drift, from `anchor` on (the Unix epoch by default).
            after: so long after the end of the run before. at: once. One of these four.
        tz: the zone of cron and at, as "Europe/Berlin"; UTC by default.
        catch_up: of the runs that were missed while the pool was down, start the "last" one (the default), "all" (the newest
            100), or "none". "last" and "all" need a store.
        overlap: while a run has not ended, "skip" the next one (the default), "queue" one, "allow" both, or "replace" the
            running one, which is cancelled.
        jitter: up to how many seconds later a run starts; the same for the same run on every host.
        expires: how many seconds late a run may start.
        The other arguments are options of the jobs (`Pool.options`).

        The schedule lives in the pool's store until `unschedule` takes it out; without a store, as long as the pool runs.
        The same name again takes its place; it goes on where it was, if its times are the same. Return its record. Wait for
        the supervisor, with a store until it is there. Raise ConfigurationError for anything that makes no sense.
        """
        if "pool" in given:
            raise TypeError("schedule() has no argument 'pool': the schedule is of this pool")
        if fn is None:

            def decorate(function: F) -> F:
                self._schedule(ScheduledCall(name, function, **given))
                return function

            return decorate
        return self._schedule(ScheduledCall(name, fn, **given))

    def _schedule(self, call: ScheduledCall) -> ScheduleInfo:
        link = self._producer.link
        return link.persist(lambda connection: link.schedules.make(connection, call))

    def unschedule(self, name: str) -> bool:
        """Take a schedule out; return False if there was none of that name. Its jobs that wait or run go on.

        One that is declared in code comes back with the next process that declares it: take it out there.
        """
        self._producer.link.schedules.forget(name)
        return super().unschedule(name)

    def run_now(self, schedule: str) -> Job[Any]:
        """Submit the call of a schedule now, beside its times and whatever `overlap` says; return the job's handle.

        Raise UnknownSchedule if there is none of that name.
        """
        job: Job[Any] = Job(self, *self._run_now(schedule))
        return self._producer.link.watch(job)

    aschedule = awaitable(schedule)
    arun_now = awaitable(run_now)

    # Begin and end ----------------------------------------------------------------------------------------------

    def connect(self) -> Self:
        """Connect to the pool now, and start it if it does not run; return this pool. Blocks; every call does it if need be.

        Raise SupervisorError if the pool cannot be started or reached, and ConfigurationError if it cannot have these
        settings, or, with `strict`, if it runs with others. Does nothing where the connection stands.
        """
        self._link.connect()
        return self

    def __enter__(self) -> Self:
        """Connect, as `connect` does; only to a pool that is there, where this process does not start it."""
        self._producer.link.begin()
        return self

    def stop(self) -> None:
        """End the pool for everybody: waiting jobs fail with PoolClosed, running ones are stopped. Waits for the end.

        Nothing of the pool remains: no process, no file.
        """
        self._shutdown.stop()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let go of the pool. A private one ends when its jobs are done; a named one goes on for the others.

        With `wait`, return when the jobs submitted here are done; with `cancel_futures`, cancel those that have not
        started.
        """
        self._shutdown.let_go(wait=wait, cancel_queued=cancel_futures)

    aconnect = awaitable(connect)
    astop = awaitable(stop)
    ashutdown = awaitable(shutdown)

    def __exit__(self, kind: type[BaseException] | None, value: object, traceback: object) -> None:
        """Wait for the jobs, or on Ctrl-C and exit, if the pool is private, end it at once."""
        if kind is not None and not issubclass(kind, Exception) and self.is_private:
            self._shutdown.stop_at_once()
        else:
            self.shutdown(wait=True)


def _make_link(
    name: str | None,
    given: Mapping[str, Any],
    directory: str | None,
    describe: Callable[..., Code],
    declared: tuple[ScheduledCall, ...] | None,
) -> PoolLink:
    """Return the link of a pool that is not connected yet; nothing has been started."""
    plan = make_plan(name, given)
    if name is None and given.get("start") is False:
        raise ConfigurationError("start=False is for a pool with a name: nobody else can start a private one")
    private_name = f"{rundir.PRIVATE_PREFIX}{os.getpid()}-{os.urandom(6).hex()}"
    place = rundir.RunDir(rundir.find_base(directory), name or private_name)
    rundir.check_socket_path(place)
    wishes = plan.client
    code = describe(
        preload=wishes.preload, version=wishes.version, environment=wishes.environment, wrappers=wishes.wrappers,
        schedules=plan.schedules_digest,
    )  # fmt: skip
    label = _label(name)
    return PoolLink(plan, code, label, place, join_declared(label, plan.schedules, declared))


def _label(name: str | None) -> str:
    return f"<Pool {name or 'private'}>"


def _at_exit() -> None:
    for pool in list(_pools):
        pool._shutdown.finish_at_exit()  # noqa: SLF001 - of this module


atexit.register(_at_exit)
