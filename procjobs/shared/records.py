"""The records that `status`, `progress`, `stats`, `queues` and `workers` of a pool return."""

from __future__ import annotations

from typing import Any, NamedTuple

from procjobs.clock import wall


class Progress(NamedTuple):
    """The last report of a job.

    `value` and `total` are in the job's own unit; `total` is None if the job did not give one. `data` is a copy of the
    object that the job handed over (a PayloadError if it cannot be unpickled here); `updated_at` is Unix time in seconds.
    """

    value: float
    total: float | None
    message: str | None
    data: Any
    updated_at: float
    started_at: float

    @property
    def fraction(self) -> float | None:
        """The finished part, 0.0 to 1.0; None while the total is not known."""
        if self.total is None or self.total <= 0:
            return None
        return min(max(self.value / self.total, 0.0), 1.0)

    def eta(self) -> float | None:
        """Return the remaining seconds if the job goes on at its average speed; None while that is not known."""
        fraction = self.fraction
        if not fraction:
            return None
        spent = self.updated_at - self.started_at
        return max(spent / fraction - (wall() - self.started_at), 0.0)


class JobStatus(NamedTuple):
    """A job as it is now. Times are Unix times in seconds, None for events that have not happened.

    `state` is one of queued, scheduled, running, retrying, succeeded, failed, cancelled, expired; `reason` says why it
    failed or ended: raised, timeout, stalled, memory, crashed, quarantined, cancelled, expired, payload, rejected,
    stopped. `attempt` counts the starts. `error` is one line of text; `Job.result()` raises the exception itself.
    `error_details` is the traceback of the last attempt if that has failed: for one that was stopped, its stack; None if
    there is none, or it is not kept any more. `meta` is what was given with `options(meta=...)`, {} if nothing was.
    `retry_of` is the id of the job that this one repeats (`Pool.retry`), None for other jobs.
    """

    id: str
    name: str
    state: str
    reason: str | None
    attempt: int
    progress: Progress | None
    submitted_at: float
    started_at: float | None
    finished_at: float | None
    worker_pid: int | None
    error: str | None
    meta: dict[str, Any]
    retry_of: str | None
    error_details: str | None

    @property
    def done(self) -> bool:
        """Whether the job has reached a final state."""
        return self.finished_at is not None


class Run(NamedTuple):
    """An attempt of a job as the store keeps it. Times are Unix times in seconds, None where they are not known.

    `outcome` is running, succeeded, or why it failed, as in `JobStatus.reason`; or cut off (supervisor or host went down),
    stopped (the pool was), unknown (the result was lost). `worker` is the slot, `worker_pid` the process. CPU time is that
    of the worker and of the processes that the job started and waited for; `peak_bytes` the most memory of the worker
    itself in this attempt, measured only if that took some milliseconds. `progress` is its last report, `log` the end of its
    output.
    """

    attempt: int
    outcome: str
    error: str | None
    started_at: float | None
    ended_at: float | None
    worker: int | None
    worker_pid: int | None
    signal: int | None
    exit_code: int | None
    cpu_seconds: float | None
    peak_bytes: int | None
    progress: str | None
    log: str | None


class JobRecord(NamedTuple):
    """A job as the store keeps it, with all attempts; the end of supervisor or host has interrupted `cut_off` of them.

    `meta` and `retry_of` are as in `JobStatus`.
    """

    id: str
    name: str
    state: str
    reason: str | None
    error: str | None
    queue: str | None
    priority: int
    attempt: int
    cut_off: int
    submitted_at: float
    started_at: float | None
    finished_at: float | None
    attempts: tuple[Run, ...]
    meta: dict[str, Any]
    retry_of: str | None


class PoolStats(NamedTuple):
    """Counters of a pool; `rss` in bytes is the sum over supervisor, templates and workers, `uptime` in seconds.

    `workers` are the live ones (`busy` + `idle`, and those that still start); `queued` jobs could run now, `scheduled`
    ones wait for a time (delay or back-off); `finished` counts all ends, of which `failed` and `crashed` jobs are part;
    `restarts` counts workers replaced after they died. `problem` says why the pool cannot run jobs, None when it can.
    `estimated_wait` is about how many seconds a job that is submitted now will wait. While `paused`, no job is started;
    when `draining`, none is taken, and the pool ends with the last one. The pool has `least` to `most` workers (the same
    number if it does not scale); `scaling` says how that number changed last and why ("6 -> 8 workers: 14 jobs wait 2.3 s,
    CPUs 40 % used"), and `scaled_at` when, in Unix time; both are None before the first change.
    """

    supervisor_pid: int
    workers: int
    busy: int
    idle: int
    queued: int
    scheduled: int
    finished: int
    failed: int
    crashed: int
    restarts: int
    rss: int
    uptime: float
    store: str | None
    problem: str | None
    estimated_wait: float
    paused: bool
    draining: bool
    least: int
    most: int
    scaling: str | None
    scaled_at: float | None


class QueueInfo(NamedTuple):
    """A queue of a pool: its limits as in `procjobs.Queue`, how many of its jobs run, and how many wait for these limits.

    Jobs that wait for a worker are not counted in `held`.
    """

    name: str
    limit: int | None
    rate: str | None
    key_limit: int | None
    key_rate: str | None
    running: int
    held: int


class WorkerInfo(NamedTuple):
    """One worker, in its slot.

    `pid` is 0 until it has been forked; `state` is starting, idle, busy or stopping; `rss` in bytes; `cpu_percent` since it
    started.
    """

    slot: int
    pid: int
    generation: int
    state: str
    job_id: str | None
    jobs_done: int
    rss: int
    cpu_percent: float
    started_at: float
