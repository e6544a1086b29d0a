"""The settings of pools and of jobs: names, defaults, and the checks that refuse nonsense early."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Literal

from procjobs.errors import ConfigurationError
from procjobs.shared.durations import check_required, check_seconds, check_size
from procjobs.shared.hook_names import check_hooks
from procjobs.shared.log_lines import resolve_log
from procjobs.shared.queues import Queue, check_queue_name, check_queues
from procjobs.shared.suggestions import suggest

NICE = 10
"""The workers' niceness: jobs leave the CPUs to the web server. Measured (docs/benchmarks, web): the slowest in a hundred
requests beside a busy pool take 2.1 ms instead of 5.0, and the pool does as many jobs."""
MAX_SLOTS = 512
"""The most workers of one pool: the slots have a fixed place in the shared table."""

Threads = int | Literal["auto"] | None
Affinity = tuple[int, ...] | Literal["spread"] | None
Workers = int | Literal["auto"] | tuple[int, int]


class _Unset:
    """The value of an argument that was not given."""

    def __repr__(self) -> str:
        return "<as configured>"


UNSET: Final[Any] = _Unset()
"""The default of arguments: a setting that was not given gives way to the settings file, one that was given does not."""

_WRAPPER = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}\Z")


def check_pool_name(name: object) -> str:
    """Return `name` if it can be the name of a pool (it becomes a directory); raise ConfigurationError if not."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise ConfigurationError(
            f"{name!r} cannot be the name of a pool: up to 40 letters, digits, dots, dashes and underscores, "
            "beginning with a letter or a digit"
        )
    return name


def check_count(name: str, value: object, *, minimum: int, maximum: int = 2**31 - 1) -> int:
    """Return a whole number within its bounds; raise ConfigurationError if it is anything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigurationError(f"{name}={value!r}: expected a whole number")
    if not minimum <= value <= maximum:
        raise ConfigurationError(f"{name}={value}: expected {minimum} to {maximum}")
    return value


def _check_worker_count(name: str, value: object) -> int:
    """Refuse with ValueError and TypeError as concurrent.futures does, since Pool passes for an Executor."""
    return check_count(name, value, minimum=1, maximum=MAX_SLOTS)


def check_workers(value: object) -> Workers:
    """Return a valid `workers` setting: a number, "auto" (the same as None), or a pair (least, most)."""
    if value is None or value == "auto":
        return "auto"
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ConfigurationError(f"workers={value!r}: a pair (least, most) has two numbers")
        minimum, maximum = (_check_worker_count("workers", v) for v in value)
        if minimum > maximum:
            raise ConfigurationError(f"workers={value!r}: the least is more than the most")
        return (minimum, maximum)
    if isinstance(value, str):
        raise ConfigurationError(f'workers={value!r}: expected a number, "auto", or a pair (least, most)')
    return _check_worker_count("workers", value)


def check_threads(value: object) -> Threads:
    """Return a valid `threads` setting: a number, "auto", or None."""
    if value is None or value == "auto":
        return value
    return check_count("threads", value, minimum=1, maximum=4096)


def check_affinity(value: object) -> Affinity:
    """Return a valid `affinity` setting: "spread", the numbers of CPUs in their order, or None."""
    if value is None or value == "spread":
        return value
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigurationError(f'affinity={value!r}: expected "spread", the numbers of CPUs such as [0, 1], or None')
    numbers = {check_count("affinity", number, minimum=0, maximum=2**16) for number in value}
    if not numbers:
        raise ConfigurationError("affinity=[]: there is no CPU in it; None lets workers run on all")
    return tuple(sorted(numbers))


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How a job is run. Durations in seconds (a timedelta or a text such as "1h30m" becomes that); None means without limit.

    `retries` counts the starts after the first one. `backoff` is the pause before the first retry; it doubles with each
    further one up to `max_backoff`, and each pause is shortened at random by up to a half, so that jobs that failed
    together do not come back together. A higher `priority` is started first.

    At `timeout` JobTimeout is raised inside the job, which is killed after `grace_period`; `soft_timeout` raises it earlier,
    and kills nothing. `stall_timeout` stops a job that has neither reported progress nor used
    CPU time for that long. `max_rss` bounds, in bytes, the resident memory of all of its processes, minus that of the
    worker at its start. `slow_after` writes the job's stack to the log. After `max_crashes` killed workers it is not
    started again. With `cancel_on_disconnect` it is cancelled when the last process that waits for it has disconnected.
    With `keep_children`, the processes that it has started run on after its end, until its worker ends. `queue` names one of
    the pool's `queues`, whose limits it shares.
    """

    timeout: float | None = None
    retries: int = 0
    backoff: float = 1.0
    max_backoff: float = 300.0
    priority: int = 0
    name: str | None = None
    grace_period: float = 5.0
    soft_timeout: float | None = None
    stall_timeout: float | None = None
    slow_after: float | None = None
    max_rss: int | None = None
    max_crashes: int = 3
    cancel_on_disconnect: bool = False
    keep_children: bool = False
    queue: str | None = None

    def validated(self) -> JobOptions:
        """Return these options with durations as floats; raise ConfigurationError naming the first bad one."""
        if self.name is not None and not isinstance(self.name, str):
            raise ConfigurationError(f"name={self.name!r}: expected text")
        for name in ("cancel_on_disconnect", "keep_children"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"{name}={getattr(self, name)!r}: expected True or False")
        timeout, soft_timeout = check_seconds("timeout", self.timeout), check_seconds("soft_timeout", self.soft_timeout)
        if timeout is not None and soft_timeout is not None and soft_timeout >= timeout:
            raise ConfigurationError(f"soft_timeout={soft_timeout:g} must come before timeout={timeout:g}")
        if self.queue is not None:
            check_queue_name(self.queue)
        max_rss = check_size("max_rss", self.max_rss)
        return replace(
            self,
            timeout=timeout,
            soft_timeout=soft_timeout,
            stall_timeout=check_seconds("stall_timeout", self.stall_timeout),
            slow_after=check_seconds("slow_after", self.slow_after),
            max_crashes=check_count("max_crashes", self.max_crashes, minimum=1),
            retries=check_count("retries", self.retries, minimum=0, maximum=65_000),
            backoff=check_required("backoff", self.backoff, zero=True),
            max_backoff=check_required("max_backoff", self.max_backoff, zero=True),
            priority=check_count("priority", self.priority, minimum=-1_000_000, maximum=1_000_000),
            grace_period=check_required("grace_period", self.grace_period, zero=True),
            max_rss=None if max_rss is None else check_count("max_rss", max_rss, minimum=2**20, maximum=2**60),
        )

    def but(self, changes: Mapping[str, Any]) -> JobOptions:
        """Return a copy with these changes, checked; raise ConfigurationError for a name that is no option."""
        unknown = changes.keys() - JOB_OPTION_NAMES
        if unknown:
            raise ConfigurationError(f"unknown job option{suggest(sorted(unknown), JOB_OPTION_NAMES)}")
        return replace(self, **changes).validated()


JOB_OPTION_NAMES = frozenset(f.name for f in fields(JobOptions))


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The settings of a supervisor. Plain values only: they travel as JSON.

    `workers` is resolved to (minimum, maximum) by the client that starts the pool. `result_memory_bytes` bounds the results
    kept in memory for readers by id; further ones go to files of the pool's directory. `start_timeout` is how long a
    preload or an initializer may take. `worker_idle` is how long a worker beyond the minimum is kept without need.
    `threads` is how many threads the numeric libraries of a worker start, `affinity` the CPUs that it runs on; both are
    described in docs/tuning.md. `queues` are the limits that jobs share, by the names of their queues. `origins` has the
    places that settings came from, except defaults: "file", "environment" or "argument"; `sources` the same places in words,
    for people. `store` is the URL of the
    database in which jobs are kept, None for no database, True for a file of the pool's own; jobs that have ended stay there
    for `history_ttl` seconds, and the newest `history_limit`; the calls of those that did not succeed for `retry_ttl`.
    `log` is the path of the pool's log, None for one in its directory. `on_failure` are the hooks that are called with each
    job that ended otherwise than well, `hook_timeout` is how long one such call may take. With `record_arguments` workers
    write the arguments of each job as a text, for people.
    """

    workers: tuple[int, int]
    job_defaults: JobOptions = JobOptions()
    max_jobs_per_worker: int | None = None
    nice: int = NICE
    max_queued: int = 100_000
    result_ttl: float = 3600.0
    result_memory_bytes: int = 64 * 2**20
    linger: float = 10.0
    worker_idle: float = 10.0
    start_timeout: float = 120.0
    store: str | bool | None = field(default=None, repr=False)  # it may have a password
    history_ttl: float = 30 * 86_400.0
    history_limit: int = 1_000_000
    retry_ttl: float = 7 * 86_400.0
    log: str | None = None
    on_failure: tuple[str, ...] = ()
    hook_timeout: float = 30.0
    record_arguments: bool = False
    threads: Threads = "auto"
    affinity: Affinity = None
    queues: Mapping[str, Queue] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    def validated(self) -> PoolSettings:
        """Return these settings; raise ConfigurationError naming the first one out of range."""
        if self.max_jobs_per_worker is not None:
            check_count("max_jobs_per_worker", self.max_jobs_per_worker, minimum=1)
        if not isinstance(self.store, str | bool | None):
            raise ConfigurationError(  # without the value, which may be a URL in some other form
                f"store=<{type(self.store).__name__}>: expected a URL such as 'sqlite:///jobs.db', True, or None"
            )
        if not isinstance(self.record_arguments, bool):
            raise ConfigurationError(f"record_arguments={self.record_arguments!r}: expected True or False")
        check_count("history_limit", self.history_limit, minimum=0)
        resolve_log(self.log, None)
        check_count("nice", self.nice, minimum=0, maximum=19)
        check_count("max_queued", self.max_queued, minimum=1, maximum=16_000_000)
        memory = check_size("result_memory_bytes", self.result_memory_bytes)
        return replace(
            self,
            result_ttl=check_required("result_ttl", self.result_ttl, zero=True),
            linger=check_required("linger", self.linger, zero=True),
            worker_idle=check_required("worker_idle", self.worker_idle, zero=True),
            history_ttl=check_required("history_ttl", self.history_ttl, zero=True),
            retry_ttl=check_required("retry_ttl", self.retry_ttl, zero=True),
            start_timeout=check_required("start_timeout", self.start_timeout),
            on_failure=check_hooks("on_failure", self.on_failure),
            hook_timeout=check_required("hook_timeout", self.hook_timeout),
            result_memory_bytes=check_count("result_memory_bytes", memory, minimum=0, maximum=2**50),
            job_defaults=self.job_defaults.validated(),
            threads=check_threads(self.threads),
            affinity=check_affinity(self.affinity),
            queues=check_queues(self.queues),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as values that JSON can carry."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PoolSettings:
        """Return the settings that `to_json` described."""
        values = {f.name: values[f.name] for f in fields(cls) if f.name in values}  # another release may have more
        minimum, maximum = values.pop("workers")
        affinity, queues = check_affinity(values.pop("affinity", None)), check_queues(values.pop("queues", {}))
        job_defaults = JobOptions(**values.pop("job_defaults"))
        values["on_failure"] = tuple(values.get("on_failure", ()))
        return cls(workers=(minimum, maximum), job_defaults=job_defaults, affinity=affinity, queues=queues, **values)

    def flat(self) -> dict[str, Any]:
        """Return every setting by name, including the job defaults."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in {"origins", "sources"}}
        return {**asdict(values.pop("job_defaults")), **values}

    def differences(self, explicit: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return {name: (running, asked for)} of the explicit settings that differ from these."""
        mine = self.flat()
        return {name: (mine[name], value) for name, value in explicit.items() if mine[name] != value}


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """The settings of a process that starts a pool or talks to it; they are not sent to the supervisor.

    `reserve` is how many CPUs `workers="auto"` leaves to the web server, or "auto". The others are as in `Pool`.
    """

    reserve: int | Literal["auto"] = "auto"
    preload: tuple[str, ...] = ()
    version: str | None = None
    environment: tuple[str, ...] = ()
    wrappers: tuple[str, ...] = ()
    submit_timeout: float = 5.0
    strict: bool = False
    start: bool = True

    def validated(self) -> ClientSettings:
        """Return these settings; raise ConfigurationError naming the first bad one."""
        if isinstance(self.reserve, str) and self.reserve != "auto":
            raise ConfigurationError(f'reserve={self.reserve!r}: expected a number of CPUs, or "auto"')
        if self.reserve != "auto":
            check_count("reserve", self.reserve, minimum=0, maximum=65_536)
        preload = _check_names("preload", self.preload, "names of modules, such as ['numpy', 'myapp.jobs']")
        environment = _check_names("environment", self.environment, "names of variables, such as ['STRIPE_*']")
        wrappers = _check_wrappers(self.wrappers)
        if self.version is not None and not isinstance(self.version, str):
            raise ConfigurationError(f"version={self.version!r}: expected text")
        for name in ("strict", "start"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"{name}={getattr(self, name)!r}: expected True or False")
        submit_timeout = check_required("submit_timeout", self.submit_timeout)
        return replace(self, preload=preload, environment=environment, wrappers=wrappers, submit_timeout=submit_timeout)


def _check_names(setting: str, value: Any, expected: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        raise ConfigurationError(f"{setting}={value!r}: expected {expected}")
    return tuple(value)


def _check_wrappers(value: Any) -> tuple[Any, ...]:
    """Return wrappers: texts such as "module:name", or functions, which only arguments of a Pool can be."""
    is_many = isinstance(value, list | tuple)
    if not is_many or not all(callable(one) or (isinstance(one, str) and _WRAPPER.match(one)) for one in value):
        raise ConfigurationError(f"wrappers={value!r}: expected functions or their names, such as ['myapp.jobs:with_user']")
    return tuple(value)
