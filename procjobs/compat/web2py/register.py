"""The table of workers: this worker's row, the burial of dead workers, and the choice of the ticker.

A worker is dead when its row has not changed for DEAD_AFTER seconds while this process was looking. No clock of another
host and no local time (which jumps twice a year) has a part in that. An outage of the database, or a pause of this process,
begins the observation anew, since nobody could write then.

One worker, the ticker, hands out the tasks. Who is ticker is decided under a lock on all rows of the table.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from procjobs.compat.web2py.database import lock
from procjobs.compat.web2py.names import ACTIVE, ASSIGNED, DISABLED, KILL, QUEUED, RUNNING, STOPPED, TERMINATE

DEAD_AFTER: Final = 10.0
BROADCAST_PREFIX: Final = "broadcast:"
"""The uuid of a copy of a broadcast task begins with it: such a copy is for one worker, and for no other one."""
_AWAY: Final = 5.0  # longer than any pause between two looks of a worker that goes well
_ON_THEIR_WAY_OUT: Final = frozenset({DISABLED, KILL, TERMINATE})


class Observer:
    """Remembers since when the rows of workers have not changed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[int, tuple[dt.datetime, float]] = {}
        self._looked_at = clock()

    def forget(self) -> None:
        """Begin anew."""
        self._seen.clear()

    def look(self, rows: Sequence[Any]) -> set[int]:
        """Take the rows as they are now; return the ids of those that are dead."""
        now = self._clock()
        if now - self._looked_at > _AWAY:
            self.forget()
        self._looked_at = now
        seen = {}
        for row in rows:
            beat, since = self._seen.get(row.id, (None, now))
            seen[row.id] = (row.last_heartbeat, since if beat == row.last_heartbeat else now)
        self._seen = seen
        return {number for number, (_, since) in seen.items() if now - since > DEAD_AFTER}


class Register:
    """This worker's view of the table, and its own row in it."""

    def __init__(self, db: Any, name: str, now: Callable[[], dt.datetime]) -> None:
        self._db = db
        self._name = name
        self._now = now
        self._observer = Observer()
        self.is_ticker = False

    def forget_observations(self) -> None:
        """Begin to observe anew: the others could not write either."""
        self._observer.forget()

    def own_row(self) -> Any:
        """Return this worker's row, None if it has been taken out."""
        workers = self._db.scheduler_worker
        return self._db(workers.worker_name == self._name).select(workers.ALL).first()

    def enter(self, group_names: Sequence[str], stats: dict[str, Any]) -> None:
        """Insert this worker's row."""
        now = self._now()
        self._db.scheduler_worker.insert(
            worker_name=self._name, status=ACTIVE, first_heartbeat=now, last_heartbeat=now, group_names=list(group_names),
            is_ticker=False, worker_stats=dict(stats),
        )  # fmt: skip

    def write(self, stats: dict[str, Any], **columns: Any) -> None:
        """Write this worker's statistics, and other columns of its row."""
        workers = self._db.scheduler_worker
        self._db(workers.worker_name == self._name).update(worker_stats=dict(stats), **columns)

    def beat(self, stats: dict[str, Any]) -> None:
        """Say that this worker is alive."""
        self.write(stats, last_heartbeat=self._now())

    def leave(self) -> None:
        """Take this worker's row out, and put the tasks back that it has not begun."""
        tasks, workers = self._db.scheduler_task, self._db.scheduler_worker
        self._put_back((tasks.assigned_worker_name == self._name) & (tasks.status == ASSIGNED))
        self._db(workers.worker_name == self._name).delete()

    def living(self) -> list[Any]:
        """Return the rows of workers that are not known to be dead. Bury the others, and choose a ticker, if need be."""
        rows = self._rows()
        dead = self._observer.look(rows)
        self.is_ticker = self._is_only_ticker(rows)
        if dead or not any(row.is_ticker and row.id not in dead for row in rows) or self._should_resign(rows):
            self._db.commit()
            rows = list(lock(self._db, self._db.scheduler_worker))
            dead = self._observer.look(rows)
            for row in rows:
                if row.id in dead and row.worker_name != self._name:
                    self.bury(row)
            self._choose_ticker([row for row in rows if row.id not in dead])
        return [row for row in rows if row.id not in dead]

    def bury(self, row: Any) -> None:
        """Take the row of a dead worker out, close its runs, and queue its tasks again."""
        runs, tasks, workers = self._db.scheduler_run, self._db.scheduler_task, self._db.scheduler_worker
        name, now = row.worker_name, self._now()
        text = f"The worker {name} died. Its last heartbeat was at {row.last_heartbeat}."
        cut_off = self._db((runs.worker_name == name) & (runs.status == RUNNING))
        cut_off.update(status=STOPPED, stop_time=now, traceback=text)
        self._put_back((tasks.assigned_worker_name == name) & tasks.status.belongs((ASSIGNED, RUNNING)))
        self._db(workers.id == row.id).delete()

    def _rows(self) -> list[Any]:
        workers = self._db.scheduler_worker
        return list(self._db(workers.id > 0).select(workers.ALL, orderby=workers.id))

    def _put_back(self, query: Any) -> None:
        tasks = self._db.scheduler_task
        copies = tasks.uuid.startswith(BROADCAST_PREFIX)
        self._db(query & copies).update(status=STOPPED)  # it was for this worker, and for no other one
        self._db(query & ~copies).update(status=QUEUED, assigned_worker_name="")

    def _is_only_ticker(self, rows: Sequence[Any]) -> bool:
        return [self._name] == [row.worker_name for row in rows if row.is_ticker]

    def _should_resign(self, rows: Sequence[Any]) -> bool:
        """Return whether this worker is ticker, will hand out nothing, and another one would; or whether there are two."""
        if sum(bool(row.is_ticker) for row in rows) > 1:
            return True
        own = next((row for row in rows if row.worker_name == self._name), None)
        return own is not None and own.is_ticker and own.status in _ON_THEIR_WAY_OUT and _best(rows) is not own

    def _choose_ticker(self, rows: Sequence[Any]) -> None:
        """Leave the office to the one that has it, if it is one that can; else give it to the oldest that can."""
        workers = self._db.scheduler_worker
        chosen = _best(rows)
        for row in rows:
            if bool(row.is_ticker) != (row is chosen):
                self._db(workers.id == row.id).update(is_ticker=row is chosen)
        self.is_ticker = chosen is not None and chosen.worker_name == self._name


def _best(rows: Sequence[Any]) -> Any:
    """Return the row of the worker that should be the ticker."""
    return min(rows, key=lambda row: (row.status in _ON_THEIR_WAY_OUT, not row.is_ticker, row.id), default=None)
