"""Numbers, times and states as text for people. Pure."""

from __future__ import annotations

from datetime import datetime

from procjobs.shared.records import JobStatus, Progress
from procjobs.shared.sizes import size_text

size = size_text


def duration(seconds: float | None) -> str:
    """Return a time span in at most two units.

    >>> duration(None), duration(0.25), duration(75), duration(3700), duration(200_000)
    ('', '0.2s', '1m15s', '1h01m', '2d07h')
    """
    if seconds is None:
        return ""
    seconds = max(seconds, 0.0)
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def span(seconds: float) -> str:
    """Return a measured time span, with two or three digits.

    >>> span(0.0000123), span(0.0123), span(1.234), span(12.34)
    ('12us', '12ms', '1.23s', '12.3s')
    """
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if seconds * factor < 999.5:
            return f"{seconds * factor:.0f}{unit}"
    return f"{seconds:.2f}s" if seconds < 9.995 else f"{seconds:.1f}s"


def moment(unix_time: float | None) -> str:
    """Return a local time, with the date unless it is today.

    >>> moment(None)
    ''
    """
    if unix_time is None:
        return ""
    then = datetime.fromtimestamp(unix_time).astimezone()
    is_today = then.date() == datetime.now().astimezone().date()
    return then.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S")


def state(status: JobStatus) -> str:
    """Return a state, with its reason if the reason adds something."""
    is_telling = status.reason not in {None, status.state}
    return f"{status.state} ({status.reason})" if is_telling else status.state


def run_time(status: JobStatus, now: float) -> float | None:
    """Return the time for which a job has been running, or ran."""
    if status.started_at is None:
        return None
    return (now if status.finished_at is None else status.finished_at) - status.started_at


def amount(progress: Progress | None) -> str:
    """Return the progress of a job in a few words.

    >>> amount(Progress(40, 100, "encoding", None, 0.0, 0.0))
    '40% encoding'
    """
    if progress is None:
        return ""
    fraction = progress.fraction
    text = f"{progress.value:g}" if fraction is None else f"{fraction:.0%}"
    return f"{text} {one_line(progress.message)}" if progress.message else text


def one_line(text: str | None) -> str:
    """Return text without line breaks and control characters, which a job may have put into it."""
    return "".join(c if c.isprintable() else " " for c in text or "").strip()


def first_line(text: str | None) -> str:
    """Return the first line of a text that goes on with a traceback, as one_line does.

    >>> first_line("preload of 'jobs' failed: ValueError: no\\nTraceback ...")
    "preload of 'jobs' failed: ValueError: no"
    """
    return one_line((text or "").strip().partition("\n")[0])


def count(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> count(1, "job"), count(3, "job")
    ('1 job', '3 jobs')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
