"""Numbers, times and states in words, for people who see a pool for the first time. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from procjobs import JobStatus, PoolStats, Progress, QueueInfo

SIGNS: Final = {
    "queued": "○", "scheduled": "◔", "running": "▶", "retrying": "↻", "succeeded": "✓", "failed": "✕",
    "cancelled": "■", "expired": "⌛", "idle": "○", "busy": "▶", "starting": "◔", "stopping": "■", "waiting": "◔",
    "well": "✓", "trouble": "✕", "warning": "!", "paused": "❙❙",
}  # fmt: skip
"""A sign for each state, beside its word, for those who do not see its colour."""
WAITING: Final = ("queued", "scheduled", "retrying")
ACTIVE: Final = (*WAITING, "running")
REPEATABLE: Final = ("failed", "cancelled", "expired")


def size(count: float | None) -> str:
    """Return a number of bytes in the unit that suits it.

    >>> size(0), size(2048), size(3 * 2**30), size(None)
    ('0 B', '2.0 KiB', '3.0 GiB', '')
    """
    if count is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def span(seconds: float | None) -> str:
    """Return a time span in at most two units.

    >>> span(None), span(0.0123), span(2.34), span(75), span(3700), span(200_000)
    ('', '12 ms', '2.3 s', '1 min 15 s', '1 h 01 min', '2 d 07 h')
    """
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds >= 0.9995 else f"{max(seconds, 0.0) * 1000:.0f} ms"
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02} h"


def about(seconds: float | None) -> str:
    """Return an estimate in one unit, which does not jump about.

    >>> about(0.4), about(42), about(100), about(5400), about(100_000)
    ('a second', '42 s', '2 min', '1.5 h', '28 h')
    """
    if seconds is None:
        return ""
    if seconds < 1.5:
        return "a second"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36_000 else f"{seconds / 3600:.0f} h"


def ago(seconds: float) -> str:
    """Return how long ago something was, or how soon it will be, in one unit.

    >>> ago(0.2), ago(42), ago(600), ago(7500), ago(200_000), ago(-90)
    ('now', '42 s ago', '10 min ago', '2 h ago', '2 d ago', 'in 2 min')
    """
    amount = abs(seconds)
    if amount < 1:
        return "now"
    for unit, length, limit in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 86_400), ("d", 86_400, float("inf"))):
        if amount < limit:
            text = f"{amount // length:.0f} {unit}" if seconds > 0 else f"{-(-amount // length):.0f} {unit}"
            return f"{text} ago" if seconds > 0 else f"in {text}"
    raise AssertionError


def moment(unix_time: float | None) -> str:
    """Return a Unix time as date and time of day in UTC; empty for None and for times that no calendar has.

    >>> moment(0.25), moment(None)
    ('1970-01-01 00:00:00 UTC', '')
    """
    if unix_time is None:
        return ""
    try:
        return datetime.fromtimestamp(unix_time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return ""


def iso(unix_time: float) -> str:
    """Return a Unix time as a machine reads it, for the attribute of `<time>`.

    >>> iso(0.0)
    '1970-01-01T00:00:00Z'
    """
    return moment(unix_time).replace(" UTC", "Z").replace(" ", "T")


def number(value: float | None) -> str:
    """Return a number with as many digits as a reader can use.

    >>> number(0.034), number(3.2), number(56.7), number(12345), number(0), number(None)
    ('0.03', '3.2', '57', '12,345', '0', '')
    """
    if value is None:
        return ""
    if value == int(value) or value >= 10:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 0.1 else f"{value:.1f}"


def count(amount: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun.

    >>> count(1, "job"), count(1300, "job"), count(2, "process", "processes")
    ('1 job', '1,300 jobs', '2 processes')
    """
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"


def state(status: JobStatus) -> str:
    """Return the state of a job, with its reason where that adds something: "failed (timeout)"."""
    return f"{status.state} ({status.reason})" if status.reason not in {None, "raised", status.state} else status.state


def amount(progress: Progress | None) -> str:
    """Return how far a job is, in its own unit: "40 %", "1,204 done"; empty where it has not said."""
    if progress is None:
        return ""
    fraction = progress.fraction
    return f"{number(progress.value)} done" if fraction is None else f"{int(fraction * 100)} %"


def run_time(status: JobStatus, now: float) -> float | None:
    """Return for how many seconds a job has been running, or ran; None if it never started."""
    if status.started_at is None:
        return None
    return (now if status.finished_at is None else status.finished_at) - status.started_at


def work_line(stats: PoolStats) -> str:
    """Return what the workers do and what waits, as a sentence."""
    if not stats.workers:
        busy = "No worker runs"
    elif stats.busy == stats.workers:
        busy = "The worker is busy" if stats.workers == 1 else f"All {stats.workers} workers are busy"
    elif not stats.busy:
        busy = "The worker is idle" if stats.workers == 1 else f"All {stats.workers} workers are idle"
    else:
        busy = f"{stats.busy} of {stats.workers} workers {'is' if stats.busy == 1 else 'are'} busy"
    parts = [busy]
    if stats.queued:
        waits = f", the oldest for {span(stats.oldest_waiting)}" if stats.oldest_waiting > 0.05 else ""
        parts.append(f"{count(stats.queued, 'job')} {'waits' if stats.queued == 1 else 'wait'}{waits}")
    else:
        parts.append("no job waits")
    if stats.scheduled:
        parts.append(f"{count(stats.scheduled, 'job')} for later")
    return ", ".join(parts) + "."


def health(stats: PoolStats, state: str) -> tuple[str, str, list[str]]:
    """Return how a pool is: a sign (well, warning, paused, trouble), a word, and a sentence for each thing to know.

    `state` is one of `procjobs.web.api.pool_state.STATES`.
    """
    if state == "killed":
        return "trouble", "down", ["The supervisor is gone: it was killed. These are its last numbers; nothing runs now."]
    if state == "not answering":
        return "trouble", state, ["The supervisor is stopped by a signal. It starts no jobs and answers nobody."]
    lines = []
    if stats.problem:
        lines.append(f"The pool cannot run jobs: {first_line(stats.problem)}")
    if stats.store is not None and stats.store != "available":
        lines.append(f"The store: {stats.store}")
    if stats.draining:
        lines.append("It is draining: it takes no more jobs, and ends with the last one.")
    if stats.paused:
        lines.append("It is paused: no job is started until somebody resumes it.")
    if stats.problem:
        return "trouble", "degraded", lines
    if stats.paused:
        return "paused", "paused", lines
    return ("warning", "draining" if stats.draining else "store trouble", lines) if lines else ("well", "running", [])


def first_line(text: str | None) -> str:
    """Return the first line of a text that may go on with a traceback."""
    return (text or "").strip().partition("\n")[0]


def limits(queue: QueueInfo) -> str:
    """Return the limits of a queue in words."""
    parts = [] if queue.limit is None else [f"{queue.limit} at a time"]
    parts += [] if queue.rate is None else [f"{queue.rate}"]
    parts += [] if queue.key_limit is None else [f"{queue.key_limit} at a time for each key"]
    parts += [] if queue.key_rate is None else [f"{queue.key_rate} for each key"]
    return ", ".join(parts) or "no limit"
