"""The records that `status`, `progress`, `stats`, `queues` and `workers` of a pool return."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from procjobs.clock import wall
from procjobs.shared.moments import iso

_STALLED_AFTER: Final = 3.0
_MIN_SILENCE: Final = 2.0
_MIN_SPENT: Final = 1.0
_MIN_FRACTION: Final = 0.05
"""What a job must have done by its only report, so that its average speed since its start says something."""


def _is_json(data: object) -> bool:
    try:
        json.dumps(data, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


class Pace(NamedTuple):
    """The speed at which a job has reported: its first value and when that came, in Unix time, and the longest pause.

    If a report was of less than the one before, as in jobs with several phases, the first value is that of this phase.
    """

    first_value: float
    first_at: float
    longest_pause: float


class Progress(NamedTuple):
    """The last report of a job.

    `value` and `total` are in the job's own unit; `total` is None if the job did not give one, and 1.0 if it reported a
    fraction. `data` is a copy of the object that the job handed over (a PayloadError if it cannot be unpickled here);
    `updated_at` is Unix time in seconds. `pace` is what `eta` goes by; `is_running` is False for a job that has ended or
    waits to be started again; `is_complete` is True for one that has succeeded, whatever its last report was.
    """

    value: float
    total: float | None
    message: str | None
    data: Any
    updated_at: float
    started_at: float
    pace: Pace | None = None
    is_running: bool = True
    is_complete: bool = False

    @property
    def fraction(self) -> float | None:
        """The finished part, 0.0 to 1.0; None while the total is not known. Of a job that has succeeded it is 1.0."""
        if self.is_complete:
            return 1.0
        if self.total is None or self.total <= 0:
            return None
        return min(max(self.value / self.total, 0.0), 1.0)

    def eta(self) -> float | None:
        """Return the remaining seconds if the job goes on at its average speed; None where that cannot be told.

        The speed is that since the first report, so neither the time to load a model nor a job that goes on in the middle
        mislead. It cannot be told in the first second of reports; of a job that does not run; and of one that is stalled:
        it has reported nothing for three times its longest pause (at least 2 seconds), or should have ended by now.
        """
        fraction = self.fraction
        if fraction == 1.0:
            return 0.0
        if not fraction or not self.is_running:
            return None
        silence = wall() - self.updated_at
        if self.pace is not None and silence > max(_STALLED_AFTER * self.pace.longest_pause, _MIN_SILENCE):
            return None
        left = self._seconds_left(fraction)
        return left - silence if left is not None and left > silence else None

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON: the fields, `fraction` and `eta`; times in ISO 8601, UTC; `data` if it is JSON, else None."""
        return {
            "value": self.value, "total": self.total, "fraction": self.fraction, "eta": self.eta(),
            "message": self.message, "data": self.data if _is_json(self.data) else None,
            "updated_at": iso(self.updated_at), "started_at": iso(self.started_at),
        }  # fmt: skip

    def _seconds_left(self, fraction: float) -> float | None:
        """Return the estimate at the time of the last report; None as long as it would be a guess."""
        since, done = self.started_at, fraction
        if self.pace is not None and self.total and self.value > self.pace.first_value:
            since, done = self.pace.first_at, (self.value - self.pace.first_value) / self.total
        elif fraction < _MIN_FRACTION:
            return None
        spent = self.updated_at - since
        return spent * (1.0 - fraction) / done if spent >= _MIN_SPENT and done > 0 else None


class JobStatus(NamedTuple):
    """A job as it is now. Times are Unix times in seconds, None for events that have not happened.

    `state` is one of queued, scheduled, running, retrying, succeeded, failed, cancelled, expired; `reason` says why it
    failed or ended: raised, timeout, stalled, memory, crashed, quarantined, cancelled, expired, payload, rejected,
    stopped. `attempt` counts the starts. `error` is one line of text; `Job.result()` raises the exception itself.
    `error_details` is the traceback of the last attempt if that has failed: for one that was stopped, its stack; None if
    there is none, or it is not kept any more. `meta` is what was given with `options(meta=...)`, {} if nothing was.
    `retry_of` is the id of the job that this one repeats (`Pool.retry`), None for other jobs. `ahead` is about how many jobs
    are to start before this one, 0 for the next one: of a job that waits for its first start, in a pool whose jobs that wait
    have one priority. It is None otherwise, of a job with a key or in a queue, and of one that was delayed. `schedule` is
    the name of the schedule that has made the job, and `scheduled_for` the time for which; both are None for other jobs.
    `queue` is the name of its queue, and `key` its key (of one that is longer than 200 bytes "sha256:" and its digest); None
    where it has none. `version` is another number once anything of this has changed; 0 of a job that the store alone has.
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
    ahead: int | None = None
    schedule: str | None = None
    scheduled_for: float | None = None
    version: int = 0
    queue: str | None = None
    key: str | None = None

    @property
    def done(self) -> bool:
        """Whether the job has reached a final state."""
        return self.finished_at is not None

    @property
    def fraction(self) -> float | None:
        """The finished part, 0.0 to 1.0: 1.0 of a job that has succeeded, also if it never reported; None if not known."""
        if self.state == "succeeded":
            return 1.0
        return None if self.progress is None else self.progress.fraction

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON: the fields, `done`, `fraction` and `eta`; times as ISO 8601 text in UTC."""
        progress = self.progress
        return {
            **self._asdict(),
            "progress": None if progress is None else progress.as_dict(),
            "submitted_at": iso(self.submitted_at),
            "started_at": iso(self.started_at),
            "finished_at": iso(self.finished_at),
            "scheduled_for": iso(self.scheduled_for),
            "done": self.done,
            "fraction": self.fraction,
            "eta": None if progress is None else progress.eta(),
        }


class Run(NamedTuple):
    """An attempt of a job as the store keeps it. Times are Unix times in seconds, None where they are not known.

    `outcome` is running, succeeded, or why it failed, as in `JobStatus.reason`; or cut off (supervisor or host went down),
    stopped (the pool was), unknown (the result was lost). `worker` is the slot, `worker_pid` the process. CPU time is that
    of the worker and of the processes that the job started and waited for; `peak_bytes` the most memory of the worker
    itself in this attempt, measured only if that took some milliseconds. `progress` is its last report, `log` the end of its
    output, `traceback` that of its exception, or its stack when it was stopped: at most 16 KiB.
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
    traceback: str | None


class JobRecord(NamedTuple):
    """A job as the store keeps it, with all attempts; the end of supervisor or host has interrupted `cut_off` of them.

    `meta`, `retry_of`, `schedule`, `scheduled_for` and `key` are as in `JobStatus`.
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
    schedule: str | None = None
    scheduled_for: float | None = None
    key: str | None = None


class PoolStats(NamedTuple):
    """Counters of a pool; `rss` in bytes is the sum over supervisor, templates and workers, `uptime` in seconds.

    `workers` are the live ones (`busy` + `idle`, and those that still start); `queued` jobs could run now, `scheduled`
    ones wait for a time (delay or back-off); `finished` counts all ends, of which `failed` and `crashed` jobs are part;
    `restarts` counts workers replaced after they died. `problem` says why the pool cannot run jobs, None when it can.
    `estimated_wait` is about how many seconds a job that is submitted now will wait. While `paused`, no job is started;
    when `draining`, none is taken, and the pool ends with the last one. The pool has `least` to `most` workers (the same
    number if it does not scale); `scaling` says how that number changed last and why ("6 -> 8 workers: 14 jobs wait 2.3 s,
    CPUs 40 % used"), and `scaled_at` when, in Unix time; both are None before the first change.

    `oldest_waiting` is for how many seconds the first job has waited that only lacks a worker, 0.0 if none does; `waits` the
    same for each of the pool's queues by name, jobs that the queue's limits hold among them.

    `waiting_workers` are those among the busy ones whose job waits for another job of the pool: they do not count, and
    others work in their place.
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
    oldest_waiting: float = 0.0
    waits: dict[str, float] = {}
    waiting_workers: int = 0


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


class Histogram(NamedTuple):
    """How many values are at most as large as each of the `bounds`, and above the bound before; in seconds.

    `counts` has one number more than `bounds`, for the values above the last bound. `total` is the sum of all values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def samples(self) -> int:
        """How many values there are."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """The mean of the values, None if there are none."""
        samples = self.samples
        return self.total / samples if samples else None


class KindInfo(NamedTuple):
    """How the jobs with one name have fared since the pool was started.

    `name` is that of the function, or the option `name`; "others" stands for all kinds beyond the 200 most used. The numbers
    of jobs that `succeeded`, `failed`, were `cancelled`, `expired`; `retried` counts the attempts that were followed by
    another one. `seconds` has the run time of each attempt that was not cancelled, `waits` how long it had waited for a
    worker, or for a limit, since it could have been started.
    """

    name: str
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    retried: int
    seconds: Histogram
    waits: Histogram


class WorkerInfo(NamedTuple):
    """One worker, in its slot.

    `pid` is 0 until it has been forked; `state` is starting, idle, busy, waiting (its job waits for another job of the pool)
    or stopping; `rss` in bytes; `cpu_percent` since it started.
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
