"""The page of one job: how far it is, its attempts, where it is now, its log, its error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from procjobs.errors import ProcjobsError, UnknownJob, describe_signal
from procjobs.web.dashboard import series
from procjobs.web.dashboard.charts import Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from procjobs import Attempt, JobStatus
    from procjobs.web.dashboard.look import Look
    from procjobs.web.dashboard.rendering import Page

_LOOK_SPAN: Final = 1.5
"""Seconds for which a stack, a log and a list of processes are kept: many visitors ask the supervisor as often as one."""


class AttemptLine(NamedTuple):
    """An attempt as the page shows it."""

    attempt: int
    sign: str
    outcome: str
    started_at: float | None
    seconds: float | None
    worker: int | None
    worker_pid: int | None
    ending: str
    last_progress: str | None
    error: str
    traceback: str | None


def show_job(look: Look, id: str) -> Page:  # noqa: A002 - the name of the part of the path
    """Return the page of a job; raise UnknownJob if there is none."""
    pool = look.pool
    job = pool.status(id)
    attempts = _ask(lambda: pool.attempts(job.id), ())
    lines, bar = _attempts(job, attempts, look.now)
    log = look.keep((job.id, "log"), _LOOK_SPAN, lambda: _ask_or_say(lambda: pool.logs(job.id)))
    return look.page(
        "job.html", job.name[:200], ("job", "attempts", "place", "log", "error", "details"), "jobs",
        job=job, attempts=lines, line=bar, log=log[0], log_trouble=log[1], arguments=_arguments(look, pool, job),
        jobs_page=f"{look.pool_path()}/jobs",  # where the new job is the first one, after this one was retried
        **_place(look, pool, job),
    )  # fmt: skip


def _ask(question: Callable[[], Any], otherwise: Any) -> Any:
    """Return an answer; where the supervisor or the store gives none, the page shows the rest."""
    try:
        return question()
    except ProcjobsError:
        return otherwise


def _ask_or_say(question: Callable[[], str]) -> tuple[str, str]:
    try:
        return question(), ""
    except UnknownJob:
        return "", ""
    except ProcjobsError as error:
        return "", f"The log cannot be read now: {error}"


def _place(look: Look, pool: Any, job: JobStatus) -> dict[str, Any]:
    """Return where a running job is: its stack, its processes, what they use. For one that has ended, its last stack."""
    place: dict[str, Any] = {"stack": None, "processes": [], "total_rss": 0, "cpu_percent": None}
    if job.state != "running":
        return place
    place["stack"] = look.keep((job.id, "stack"), _LOOK_SPAN, lambda: _ask(lambda: pool.stack(job.id), None))
    found = look.keep((job.id, "processes"), _LOOK_SPAN, lambda: _ask(lambda: pool.processes(job.id), []))
    if found:
        place["processes"] = found
        place["total_rss"] = sum(one.rss for one in found)
        place["cpu_percent"] = look.memory.cpu_percent_of(job.id, sum(one.cpu_seconds for one in found))
    return place


def _arguments(look: Look, pool: Any, job: JobStatus) -> str | None:
    """Return the text of the arguments that a worker has made, as the application lets it be shown; None for none."""
    shows = look.site.options.show_arguments
    if not shows:
        return None
    text = _ask(lambda: pool.arguments(job.id), None)
    if text is None or not callable(shows):
        return None if text is None else str(text)
    return shows(job.id, text)


def _attempts(job: JobStatus, attempts: Sequence[Attempt], now: float) -> tuple[list[AttemptLine], Markup | str]:
    """Return the attempts, the newest first, and the life of the job as a bar."""
    lines, parts = [], []
    until = now if job.finished_at is None else job.finished_at
    at = job.submitted_at
    for one in attempts:
        is_last = one.attempt == attempts[-1].attempt
        kind, outcome = _outcome(job, one, is_last=is_last)
        begin = one.started_at
        end = one.ended_at if one.ended_at is not None else until if is_last else None
        if begin is not None and end is not None and begin <= end:
            parts += [Segment(at, begin, "waited", "waited")] if begin - at > 0.001 else []
            parts.append(Segment(begin, end, kind, f"attempt {one.attempt}, {outcome},"))
            at = end
        seconds = None if begin is None or end is None else max(end - begin, 0.0)
        shows_traceback = one.traceback is not None and not (is_last and job.error_details)
        lines.append(AttemptLine(
            one.attempt, kind, outcome, begin, seconds, one.worker, one.worker_pid, _ending(one), one.last_progress,
            one.error, one.traceback if shows_traceback else None,
        ))  # fmt: skip
    if not job.done and lines and job.state != "running" and until - at > 0.001:
        parts.append(Segment(at, until, "waited", "waits"))
    lines.reverse()
    return lines, series.attempt_line(parts, job.submitted_at, until) if parts and until > job.submitted_at else ""


def _outcome(job: JobStatus, one: Attempt, *, is_last: bool) -> tuple[str, str]:
    """Return the kind of an attempt's end, as its colour and sign, and a word for it."""
    if one.reason is not None:
        return "cancelled" if one.reason == "cancelled" else "failed", one.reason
    if is_last and job.state == "running":
        return "running", "running"
    return ("succeeded", "succeeded") if one.ended_at is not None else ("cancelled", "unknown")


def _ending(one: Attempt) -> str:
    """Return how the worker of an attempt ended, "" if it did not."""
    if one.signal:
        return f"killed by {describe_signal(one.signal)}"
    return f"its worker exited with {one.exit_code}" if one.exit_code is not None else ""
