"""What becomes of a task after a run, and when it starts again: pure rules, as in web2py but for one.

A periodic task that has failed goes on with its next period. In the original one failure ends it for good; see
`Rules.stop_after_failure`.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import Any, Final, NamedTuple

from procjobs.compat.web2py.cron import CronParser
from procjobs.compat.web2py.names import COMPLETED, EXPIRED, QUEUED

_PERIOD: Final = 60


class Change(NamedTuple):
    """How the row of a task changes at the end of a run."""

    status: str
    times_run: int
    times_failed: int


def next_start(task: Any, now: dt.datetime) -> dt.datetime:
    """Return when a task that starts at `now` is due again."""
    if task.cronline:
        return CronParser(task.cronline, now.replace(second=0, microsecond=0)).next()
    period = _PERIOD if task.period is None else task.period
    if not task.prevent_drift or not period or task.start_time is None:
        return now + dt.timedelta(seconds=period)
    slots = math.floor((now - task.start_time).total_seconds() / period) + 1
    return task.start_time + dt.timedelta(seconds=period * slots)  # type: ignore[no-any-return]


def after_success(task: Any) -> Change:
    """Return what becomes of a task that has run well; `next_run_time` is that after this run."""
    times_run = task.times_run + 1
    if task.repeats and times_run >= task.repeats:
        return Change(COMPLETED, times_run, 0)
    is_over = task.stop_time is not None and task.next_run_time > task.stop_time
    return Change(EXPIRED if is_over else QUEUED, times_run, 0)


def after_failure(task: Any, status: str, *, stop_after_failure: bool) -> Change:
    """Return what becomes of a task whose run has failed, which is `status` when no further run is left to it.

    It is tried again `retry_failed` times (-1: for ever). If it is periodic it goes on after that, with `repeats` until as
    many runs in a row have failed as were left to it.
    """
    failed = task.times_failed + 1
    runs = math.inf if task.retry_failed == -1 else task.retry_failed
    if not stop_after_failure:
        runs += math.inf if task.repeats == 0 else max(task.repeats - task.times_run - 1, 0)
    return Change(QUEUED if failed <= runs else status, task.times_run, failed)
