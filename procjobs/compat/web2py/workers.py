"""The rows of workers, as programs and administrators read and change them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from procjobs.compat.web2py.context import Storage

_COLUMNS: Final = ("status", "first_heartbeat", "last_heartbeat", "group_names", "is_ticker", "worker_stats")


def set_worker_status(
    db: Any,
    group_names: Sequence[str],
    action: str,
    *,
    exclude: Sequence[str] = (),
    limit: int | None = None,
    worker_name: str | None = None,
) -> None:
    """Give a status to the workers of some groups, at most `limit` of them, or to the one that is named.

    Workers that have the status already, or one of `exclude`, stay as they are.
    """
    workers = db.scheduler_worker
    query = ~workers.status.belongs([*exclude, action])
    if worker_name:
        query &= workers.worker_name == worker_name
    rows = db(query).select(workers.id, workers.group_names, orderby=workers.id)
    wanted = set(group_names)
    ids = [row.id for row in rows if worker_name or wanted.intersection(row.group_names or ())]
    db(workers.id.belongs(ids[:limit] if limit else ids)).update(status=action)


def get_workers(db: Any, *, only_ticker: bool = False) -> dict[str, Storage]:
    """Return the columns of each worker by its name."""
    workers = db.scheduler_worker
    query = workers.is_ticker == True if only_ticker else workers.id > 0
    return {row.worker_name: Storage((name, row[name]) for name in _COLUMNS) for row in db(query).select()}
