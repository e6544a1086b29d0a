"""Putting tasks into the table, asking for them, and stopping them."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydal.objects import Query
from pydal.validators import IS_DATETIME

from procjobs.compat.web2py.cron import CronParser
from procjobs.compat.web2py.names import ASSIGNED, QUEUED, RUNNING, STOPPED
from procjobs.compat.web2py.tables import new_uuid

_STOPPABLE: Final = (QUEUED, ASSIGNED, RUNNING)


def queue_task(
    db: Any,
    now: Callable[[], dt.datetime],
    function: str | Callable[..., Any],
    pargs: Sequence[Any],
    pvars: Mapping[str, Any],
    options: dict[str, Any],
) -> dict[str, Any]:
    """Insert a task; see `Scheduler.queue_task`."""
    name = getattr(function, "__name__", function)
    options.pop("immediate", None)  # every task starts as soon as the original's immediate ones: see `loop`
    fields = {
        **options,
        "function_name": name,
        "task_name": options.get("task_name") or name,
        "args": options.get("args") or json.dumps(pargs),
        "vars": options.get("vars") or json.dumps(pvars),
        "uuid": options.get("uuid") or new_uuid(),
    }
    if "next_run_time" not in fields:
        fields.update(_first_run(fields, now))
    answer = db.scheduler_task.validate_and_insert(**fields)
    errors = dict(answer["errors"])
    if errors:
        return {"id": None, "uuid": None, "errors": errors}
    return {"id": answer["id"], "uuid": fields["uuid"], "errors": errors}


def _first_run(fields: Mapping[str, Any], now: Callable[[], dt.datetime]) -> dict[str, Any]:
    """Return when the task is due first, if that is not now. Wrong values are left to the validators of the columns."""
    start = fields.get("start_time")
    if isinstance(start, str):
        start, error = IS_DATETIME()(start)
        if error:
            return {}
    if fields.get("cronline"):
        with contextlib.suppress(ValueError):
            base = start or now().replace(second=0, microsecond=0)
            return {"start_time": base, "next_run_time": CronParser(fields["cronline"], base).next()}
    return {} if start is None else {"next_run_time": start}


def task_status(db: Any, ref: Any, *, output: bool) -> Any:
    """Return the row of a task; see `Scheduler.task_status`."""
    tasks, runs = db.scheduler_task, db.scheduler_run
    query = ref if isinstance(ref, Query) else _query_of(db, ref, "You can retrieve results only by id, uuid or Query")
    if not output:
        return db(query).select(tasks.ALL, orderby=~tasks.id, limitby=(0, 1)).first()
    left = runs.on(runs.task_id == tasks.id)
    row = db(query).select(tasks.ALL, runs.ALL, left=left, orderby=~tasks.id | ~runs.id, limitby=(0, 1)).first()
    if row:
        text = row.scheduler_run.run_result
        row.result = (json.loads(text) or None) if text else None  # the original gives None for 0, [] and ''
    return row


def stop_task(db: Any, ref: Any, now: dt.datetime) -> int | None:
    """Mark a task as stopped; see `Scheduler.stop_task`. The worker that runs it looks at this row, and ends the run."""
    tasks = db.scheduler_task
    query = _query_of(db, ref, "You can retrieve results only by id or uuid")
    changed = db(query & tasks.status.belongs(_STOPPABLE)).update(status=STOPPED, enabled=False, stop_time=now)
    return 1 if changed else None


def _query_of(db: Any, ref: Any, refusal: str) -> Any:
    if isinstance(ref, int):
        return db.scheduler_task.id == ref
    if isinstance(ref, str):
        return db.scheduler_task.uuid == ref
    raise SyntaxError(refusal)
