"""The records that `processes`, `usage`, `settings` and `trend` of a pool return."""

from __future__ import annotations

from typing import NamedTuple


class ProcessInfo(NamedTuple):
    """A process of the host that works for a job.

    `name` is that of the kernel, at most 15 bytes; `command` the command line as ps shows it, at most 1,000 characters,
    empty of one that has ended. `state` is running, sleeping, disk-sleep, stopped, zombie, ..., in the words of ps.
    `cpu_seconds` is the CPU time of this process alone since it began: that of a worker has earlier jobs in it. `rss` is its
    resident memory in bytes. `started_at` is Unix time in seconds.
    """

    pid: int
    parent_pid: int
    name: str
    command: str
    state: str
    cpu_seconds: float
    rss: int
    threads: int
    started_at: float


class PoolUsage(NamedTuple):
    """What all processes of a pool use of the host: its supervisor, templates, workers, and what their jobs have started.

    `cpu_seconds` is the CPU time that they have used so far, those that have ended included: of two records of one pool,
    `(b.cpu_seconds - a.cpu_seconds) / (b.at - a.at)` is how many CPUs it kept busy in between. `at` is `time.monotonic()`.
    `rss` is the sum of their resident bytes, in which shared pages count in each process; `pss` has these divided among
    their sharers, None if it was not asked for or this host does not tell it. `processes` is their number, 0 if the pool
    does not run. `cpus` is how many CPUs they may use at once, as affinity and the quota of a control group allow (1.5 of a
    quota of one and a half); `memory_limit` the bytes that a control group allows, None without one.
    """

    cpu_seconds: float
    rss: int
    pss: int | None
    processes: int
    cpus: float
    memory_limit: int | None
    at: float


class SettingInfo(NamedTuple):
    """A setting that a pool runs with.

    `value` is text, nearly as a settings file has it, without the passwords of addresses; "none" stands for None. `source`
    says where the value comes from: "default"; the path of a settings file and the table in it; the name of a variable of
    the environment; "argument of the process that started the pool", and others of that kind.
    """

    name: str
    value: str
    source: str


class TrendPoint(NamedTuple):
    """The state of a pool at the Unix time `at`, which it kept for some time.

    `finished` and `failed` count since the pool was started: their differences, divided by the time between two points, are
    jobs per second. `queued`, `busy` and `workers` are as in PoolStats; `oldest_waiting` is for how many seconds the first
    job had waited that only lacked a worker.
    """

    at: float
    finished: int
    failed: int
    queued: int
    busy: int
    workers: int
    oldest_waiting: float
