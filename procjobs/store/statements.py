"""The statements that run for every job, as the driver takes them.

SQLAlchemy compiles each of them once. Its work for each row would take longer than SQLite takes to write that row.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, case, delete, func, insert, literal_column, select, update
from sqlalchemy.dialects import postgresql, sqlite

from procjobs.store.schema import attempts, checkpoints, claims, hooks, jobs, kinds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.engine import Connection, Dialect

ACCOUNT: Final = (
    "outcome", "error", "started_at", "ended_at", "worker", "worker_pid", "signal", "exit_code", "cpu_seconds",
    "peak_bytes", "progress", "log", "traceback",
)  # fmt: skip
"""The account of an attempt: columns that are filled one after the other, and never emptied."""
_JOB: Final = (
    "id", "pool", "owner", "epoch", "name", "kind", "queue", "priority", "key", "unique_until", "state", "attempt",
    "cut_off", "crashes", "submitted_at", "not_before", "expires_at", "call", "call_data", "meta", "retry_of",
    "schedule", "scheduled_for",
)  # fmt: skip


_NULL: Final[Any] = literal_column("NULL")
_NO_OWNER: Final[Any] = literal_column("''")


class Prepared:
    """A statement for many rows, each a mapping that has all of its parameters, and perhaps more."""

    def __init__(self, statement: Any, dialect: Dialect, columns: Sequence[str] | None = None) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=columns)
        self._text = str(compiled)
        names = compiled.positiontup
        self._values = None if names is None else itemgetter(*names)

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Run the statement for every row; return how many rows it has changed, as far as the driver tells that."""
        if not rows:
            return 0
        values: Any = rows if self._values is None else list(map(self._values, rows))
        return connection.exec_driver_sql(self._text, values).rowcount

    def first(self, connection: Connection, **values: Any) -> Any:
        """Run a query, and return its first row or None."""
        given: Any = values if self._values is None else tuple(values.values())
        return connection.exec_driver_sql(self._text, given).first()


class Statements:
    """All statements, for one kind of database."""

    def __init__(self, dialect: Dialect) -> None:
        maker: Any = {"sqlite": sqlite, "postgresql": postgresql}[dialect.name]
        holder = select(claims.c.owner, claims.c.epoch, claims.c.holder).where(claims.c.pool == bindparam("b_pool"))
        self.hold_claim = Prepared(holder.with_for_update(read=True, key_share=True), dialect)
        """Nobody can take the claim until the transaction has ended."""
        self.add_kinds = Prepared(maker.insert(kinds).on_conflict_do_nothing(), dialect)
        self.add_jobs = Prepared(insert(jobs), dialect, _JOB)
        self.record_attempts = Prepared(_upsert_attempts(maker), dialect)
        # The row of a job of this supervisor, under its claim; a job that has ended has no owner.
        is_mine = (jobs.c.owner == bindparam("b_owner")) & (jobs.c.epoch == bindparam("b_epoch"))
        change = update(jobs).where(jobs.c.id == bindparam("b_id"), is_mine)
        self.save_checkpoint = Prepared(_upsert_checkpoint(maker, is_mine), dialect)
        own = select(jobs.c.id).where(jobs.c.id == bindparam("b_id"), is_mine)
        self.drop_checkpoint = Prepared(delete(checkpoints).where(checkpoints.c.job_id.in_(own)), dialect)
        self.mark_hooks = Prepared(_insert_mark(maker, is_mine), dialect)
        called = (hooks.c.pool == bindparam("b_pool")) & (hooks.c.job_id == bindparam("b_id"))
        self.unmark_hooks = Prepared(delete(hooks).where(called), dialect)
        is_newer = jobs.c.attempt <= bindparam("b_attempt")  # than the row: a start may have been reclaimed since
        crashes: Any = func.coalesce(bindparam("b_crashes"), jobs.c.crashes)
        started_at: Any = func.coalesce(jobs.c.started_at, bindparam("b_started_at"))
        note: Any = literal_column("'cancelled'")  # that it was cancelled meanwhile
        reason = case((jobs.c.reason == note, note), else_=_NULL)
        running: dict[str, Any] = {"state": literal_column("'running'"), "reason": reason,
                                   "started_at": started_at, "crashes": crashes, **_given("attempt")}  # fmt: skip
        retrying = {"state": literal_column("'retrying'"), "crashes": crashes, "started_at": started_at,
                    **_given("attempt", "reason", "error", "not_before")}  # fmt: skip
        has_succeeded = bindparam("b_state", type_=jobs.c.state.type) == literal_column("'succeeded'")
        ended = {"owner": _NO_OWNER, "call": case((has_succeeded, _NULL), else_=jobs.c.call),
                 "call_data": case((has_succeeded, _NULL), else_=jobs.c.call_data),
                 "started_at": started_at,
                 **_given("state", "reason", "attempt", "error", "finished_at", "answer", "answer_data")}  # fmt: skip
        queued: Any = literal_column("'queued'")
        free: dict[str, Any] = {"owner": _NO_OWNER, "state": queued, **_given("attempt")}
        # A job that waits for a time goes on to do so; one that was recorded as running may have been reclaimed since.
        waits = case((jobs.c.state == literal_column("'running'"), queued), else_=jobs.c.state)
        self.set_running = Prepared(change.where(is_newer).values(running), dialect)
        self.set_retrying = Prepared(change.where(is_newer).values(retrying), dialect)
        self.set_ended = Prepared(change.values(ended), dialect)
        self.set_free = Prepared(change.values({**free, "state": waits}), dialect)
        self.set_interrupted = Prepared(change.values({**free, "cut_off": jobs.c.cut_off + literal_column("1")}), dialect)


def _given(*columns: str) -> dict[str, Any]:
    return {name: bindparam(f"b_{name}", type_=jobs.c[name].type) for name in columns}


def _upsert_checkpoint(maker: Any, is_mine: Any) -> Any:
    """Return the statement that keeps the checkpoint of a job of this supervisor, in the place of the one before."""
    values = [bindparam(f"b_{name}", type_=checkpoints.c[name].type) for name in ("saved_at", "data")]
    casts = [values[0] + literal_column("0.0"), values[1]]
    chosen = select(jobs.c.id, *casts).where(jobs.c.id == bindparam("b_id"), is_mine)
    statement = maker.insert(checkpoints).from_select(["job_id", "saved_at", "data"], chosen)
    new = {name: statement.excluded[name] for name in ("saved_at", "data")}
    return statement.on_conflict_do_update(index_elements=["job_id"], set_=new)


def _insert_mark(maker: Any, is_mine: Any) -> Any:
    """Return the statement that notes that hooks are to be called with a job of this supervisor, which ends."""
    chosen = select(jobs.c.pool, jobs.c.id, literal_column("0")).where(jobs.c.id == bindparam("b_id"), is_mine)
    return maker.insert(hooks).from_select(["pool", "job_id", "tries"], chosen).on_conflict_do_nothing()


def _upsert_attempts(maker: Any) -> Any:
    """Return the statement that adds to the account of an attempt; one that has ended does not change."""
    statement = maker.insert(attempts)
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["job_id", "attempt"],
        set_={name: func.coalesce(new[name], attempts.c[name]) for name in ACCOUNT},
        where=attempts.c.ended_at.is_(None),
    )


_prepared: dict[str, Statements] = {}


def prepare(dialect: Dialect) -> Statements:
    """Return the statements for a kind of database, compiled when they are first asked for."""
    found = _prepared.get(dialect.name)
    if found is None:
        found = _prepared[dialect.name] = Statements(dialect)
    return found
