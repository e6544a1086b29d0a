"""What the sender reads and writes: it takes over, claims tasks that are due, and ends attempts.

1. Every transaction looks at the generation first, and does nothing where another sender has taken over (`Superseded`).
2. All that is to be written and read at a time is one transaction, `turn`. What was claimed and what the bucket has left
   are written together, so that a kill neither loses nor makes tokens.
3. An attempt ends by the number of its task and the token of its turn. A task that was deleted meanwhile has no such row
   any more, and is left alone.
4. A transaction whose commit got no answer is called again with the same order, and finds by its token whether it has
   happened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Select, bindparam, func, insert, select, update

from procjobs.compat.taskqueue.sender.destinations import KEY
from procjobs.compat.taskqueue.settings.queues import QueueSettings, RetryParameters
from procjobs.compat.taskqueue.store.rows import end, slices
from procjobs.compat.taskqueue.store.tables import (
    GENERATION,
    RUNNING,
    SIGNING_KEY,
    WAITING,
    executions,
    now_usec,
    queues,
    settings,
    tasks,
)

SUCCEEDED: Final = "succeeded"
GIVEN_UP: Final = "given up"


class Superseded(Exception):
    """Another sender has taken over."""


class Claim(NamedTuple):
    """A task whose request is to be sent. Times are microseconds since 1970 in UTC; `run` is the token of the turn."""

    id: int
    queue: str
    name: str
    method: str
    url: str
    target: str | None
    headers: str
    payload: bytes | None
    eta_usec: int
    first_try_usec: int | None
    retry_count: int
    execution_count: int
    previous_response: int | None
    retry_reason: str | None
    retry: str | None
    deadline_usec: int | None
    run: str

    def header_pairs(self) -> list[tuple[str, str]]:
        """Return the headers that the caller has given."""
        return [(str(name), str(value)) for name, value in json.loads(self.headers)]

    def retry_parameters(self, queue: QueueSettings) -> RetryParameters:
        """Return the task's own parameters, which replace those of the queue as a whole."""
        return queue.retry if self.retry is None else RetryParameters.from_json(self.retry)


class Ending(NamedTuple):
    """What becomes of a task after an attempt: `eta_usec` is when it runs again, None where it has ended."""

    id: int
    run: str
    outcome: str
    eta_usec: int | None = None
    retry_count: int = 0
    execution_count: int = 0
    previous_response: int | None = None
    retry_reason: str | None = None


class Level(NamedTuple):
    """What a queue's bucket has, and the rate that is kept, as the next sender finds it."""

    tokens: float
    enforced_rate: float


class Order(NamedTuple):
    """What one turn is to do: `wanted` is how many tasks of each queue may be claimed."""

    generation: int
    token: str
    endings: Sequence[Ending] = ()
    wanted: Mapping[str, int] = {}
    levels: Mapping[str, Level] = {}


class QueueRow(NamedTuple):
    """A queue as its row has it; `next_eta` is that of its first task that waits, None without one."""

    name: str
    settings: str
    tokens: float | None
    tokens_at_usec: int | None
    enforced_rate: float | None
    next_eta: int | None


class Report(NamedTuple):
    """What a turn has claimed and found."""

    claimed: Sequence[Claim]
    queues: Sequence[QueueRow]
    destinations: str | None


_T: Final = tasks.c
_next_eta: Final = (
    select(func.min(_T.eta_usec))
    .where(_T.queue == queues.c.name, _T.state == WAITING, _T.mode == "push")
    .correlate(queues)
    .scalar_subquery()
)
_QUEUES: Final = select(
    queues.c.name, queues.c.settings, queues.c.tokens, queues.c.tokens_at_usec, queues.c.enforced_rate, _next_eta
).order_by(queues.c.name)
_SETTINGS: Final = select(settings.c.key, settings.c.value).where(settings.c.key.in_([GENERATION, KEY]))
_CLAIM_COLUMNS: Final = [_T[name] for name in Claim._fields if name != "run"]
_DUE: Final = (
    select(*_CLAIM_COLUMNS)
    .where(
        _T.queue == bindparam("queue"), _T.state == WAITING, _T.mode == "push", _T.eta_usec <= bindparam("now")
    )
    .order_by(_T.eta_usec, _T.id)
    .limit(bindparam("number"))
    .with_for_update(skip_locked=True)
)
_THIS_ATTEMPT: Final = (_T.id == bindparam("b_id")) & (_T.run == bindparam("b_run")) & (_T.state == RUNNING)
_RETRY: Final = (
    update(tasks)
    .where(_THIS_ATTEMPT)
    .values(
        state=WAITING, run=None, eta_usec=bindparam("b_eta"), retry_count=bindparam("b_retries"),
        execution_count=bindparam("b_executions"), previous_response=bindparam("b_response"),
        retry_reason=bindparam("b_reason"),
    )
)  # fmt: skip
_IS_RUNNING: Final = _T.queue.in_(select(queues.c.name)) & (_T.state == RUNNING)
"""With its queues, for that is how the index begins."""
_RETURN: Final = update(tasks).where(_IS_RUNNING).values(state=WAITING, run=None)
_KEEP_LEVEL: Final = (
    update(queues)
    .where(queues.c.name == bindparam("b_name"))
    .values(tokens=bindparam("b_tokens"), tokens_at_usec=bindparam("b_now"), enforced_rate=bindparam("b_rate"))
)


class Takeover(NamedTuple):
    """What a new leader begins with: its generation, the key of the signatures, the queues that had requests under way."""

    generation: int
    signing_key: bytes
    interrupted: frozenset[str]


def take_over(connection: Connection) -> Takeover:
    """Begin the next generation, and have all tasks wait that were under way: they are sent once more.

    Their eta and counts stay as they are, so they come before others, and the handler sees the same attempt again.
    """
    stored = _pairs(connection, select(settings.c.key, settings.c.value).with_for_update())
    generation = int(stored[GENERATION]) + 1
    connection.execute(update(settings).where(settings.c.key == GENERATION).values(value=str(generation)))
    interrupted = frozenset(connection.scalars(select(_T.queue).where(_IS_RUNNING).distinct()))
    connection.execute(_RETURN)
    return Takeover(generation, bytes.fromhex(stored[SIGNING_KEY]), interrupted)


def turn(connection: Connection, order: Order, *, is_repeated: bool) -> Report:
    """Do what is ordered within the open transaction. Raise Superseded where this sender has nothing to say any more."""
    writes = bool(order.endings or order.wanted or order.levels)
    stored = _check_generation(connection, order.generation, writes=writes)
    claimed = _find_claimed(connection, order.token) if is_repeated else []
    if not claimed:
        moment = now_usec()
        _write_endings(connection, order)
        claimed = _claim(connection, order, moment)
        _write_levels(connection, order.levels, claimed, moment)
    rows = [QueueRow(*row) for row in connection.execute(_QUEUES)]
    return Report(claimed, rows, stored.get(KEY))


def give_up_lead(connection: Connection, order: Order) -> None:
    """Write the endings of the order, and have all other tasks wait that were under way. Raise Superseded as `turn`."""
    _check_generation(connection, order.generation, writes=True)
    _write_endings(connection, order)
    connection.execute(_RETURN)
    _write_levels(connection, order.levels, [], now_usec())


def _check_generation(connection: Connection, generation: int, *, writes: bool) -> dict[str, str]:
    """Return the settings; where the transaction `writes`, the next sender waits for its end before it takes over."""
    stored = _pairs(connection, _SETTINGS.with_for_update(read=True) if writes else _SETTINGS)
    if stored[GENERATION] != str(generation):
        raise Superseded
    return stored


def _pairs(connection: Connection, query: Select[Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in connection.execute(query)}


def _find_claimed(connection: Connection, token: str) -> list[Claim]:
    query = select(*_CLAIM_COLUMNS).where(_T.run == token, _IS_RUNNING)
    return [Claim._make((*row, token)) for row in connection.execute(query)]


def _write_endings(connection: Connection, order: Order) -> None:
    ended: dict[tuple[str, str], list[int]] = {}
    for one in order.endings:
        if one.eta_usec is None:
            ended.setdefault((one.run, one.outcome), []).append(one.id)
    for (run, outcome), numbers in ended.items():
        for some in slices(numbers):
            end(connection, _T.id.in_(some) & (_T.run == run) & (_T.state == RUNNING), outcome)
    again = [
        {
            "b_id": one.id, "b_run": one.run, "b_eta": one.eta_usec, "b_retries": one.retry_count,
            "b_executions": one.execution_count, "b_response": one.previous_response, "b_reason": one.retry_reason,
        }
        for one in order.endings
        if one.eta_usec is not None
    ]  # fmt: skip
    if again:
        connection.execute(_RETRY, again)


def _claim(connection: Connection, order: Order, moment: int) -> list[Claim]:
    found: list[Any] = []
    for queue, number in order.wanted.items():
        found += connection.execute(_DUE, {"queue": queue, "now": moment, "number": number})
    for ids in slices([row.id for row in found]):
        change = update(tasks).where(_T.id.in_(ids), _T.state == WAITING)
        first = func.coalesce(_T.first_try_usec, moment)
        connection.execute(change.values(state=RUNNING, run=order.token, first_try_usec=first))
    return [
        Claim._make((*row, order.token))._replace(first_try_usec=row.first_try_usec or moment) for row in found
    ]


def _write_levels(connection: Connection, levels: Mapping[str, Level], claimed: Sequence[Claim], moment: int) -> None:
    counts = dict.fromkeys(levels, 0)
    for claim in claimed:
        counts[claim.queue] = counts.get(claim.queue, 0) + 1
    if levels:
        connection.execute(
            _KEEP_LEVEL,
            [
                {
                    "b_name": name, "b_tokens": level.tokens - counts[name], "b_now": moment,
                    "b_rate": level.enforced_rate,
                }
                for name, level in levels.items()
            ],
        )  # fmt: skip
    begun = [{"queue": name, "at_usec": moment, "count": count} for name, count in counts.items() if count]
    if begun:
        connection.execute(insert(executions), begun)
