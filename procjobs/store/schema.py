"""The tables, and the steps by which an older database gets them. docs/store.md describes the columns for readers.

The steps are frozen text: a step of a released version is never edited, only followed by another one. The Table objects
describe the tables after the last step; a test compares both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)

from procjobs.errors import StoreUnavailable

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

metadata: Final = MetaData()

versions: Final = Table("procjobs_schema", metadata, Column("version", Integer, nullable=False))

claims: Final = Table(
    "procjobs_claims",
    metadata,
    Column("pool", String(200), primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("owner", String(32), nullable=False),
    Column("holder", Text, nullable=False),
    Column("beats", Integer, nullable=False),
)

kinds: Final = Table(
    "procjobs_kinds",
    metadata,
    Column("digest", String(32), primary_key=True),
    Column("pool", String(200), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", LargeBinary, nullable=False),
    Column("function", LargeBinary, nullable=False),
)

jobs: Final = Table(
    "procjobs_jobs",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("pool", String(200), nullable=False),
    Column("owner", String(32), nullable=False),
    Column("epoch", Integer, nullable=False, server_default=text("0")),
    Column("name", Text, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("queue", String(100)),
    Column("priority", Integer, nullable=False),
    Column("key", LargeBinary),
    Column("unique_until", Double),
    Column("state", String(16), nullable=False),
    Column("reason", String(16)),
    Column("attempt", Integer, nullable=False),
    Column("cut_off", Integer, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("error", Text),
    Column("submitted_at", Double, nullable=False),
    Column("not_before", Double),
    Column("expires_at", Double),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("call", LargeBinary),
    Column("call_data", LargeBinary),
    Column("answer", LargeBinary),
    Column("answer_data", LargeBinary),
    Column("meta", Text),
    Column("retry_of", String(36)),
    Column("schedule", String(100)),
    Column("scheduled_for", BigInteger),
)
Index(
    "procjobs_jobs_waiting", jobs.c.pool, jobs.c.priority.desc(), jobs.c.id,
    sqlite_where=text("owner = '' AND finished_at IS NULL"), postgresql_where=text("owner = '' AND finished_at IS NULL"),
)  # fmt: skip
Index("procjobs_jobs_unfinished", jobs.c.pool, jobs.c.state,
      sqlite_where=text("finished_at IS NULL"), postgresql_where=text("finished_at IS NULL"))  # fmt: skip
Index("procjobs_jobs_finished", jobs.c.finished_at)
Index("procjobs_jobs_unique", jobs.c.pool, jobs.c.key,
      sqlite_where=text("unique_until IS NOT NULL"), postgresql_where=text("unique_until IS NOT NULL"))  # fmt: skip
_ONLY_ONE: Final = text("unique_until IS NOT NULL AND finished_at IS NULL")
Index("procjobs_jobs_only_one", jobs.c.pool, jobs.c.key, unique=True, sqlite_where=_ONLY_ONE, postgresql_where=_ONLY_ONE)

_OF_SCHEDULE: Final = text("schedule IS NOT NULL")
Index("procjobs_jobs_scheduled", jobs.c.pool, jobs.c.schedule, jobs.c.finished_at,
      sqlite_where=_OF_SCHEDULE, postgresql_where=_OF_SCHEDULE)  # fmt: skip

attempts: Final = Table(
    "procjobs_attempts",
    metadata,
    Column("job_id", String(36), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("outcome", String(16), nullable=False),
    Column("error", Text),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("worker", Integer),
    Column("worker_pid", Integer),
    Column("signal", Integer),
    Column("exit_code", Integer),
    Column("cpu_seconds", Double),
    Column("peak_bytes", Double),
    Column("progress", Text),
    Column("log", Text),
    Column("traceback", Text),
)

checkpoints: Final = Table(
    "procjobs_checkpoints",
    metadata,
    Column("job_id", String(36), primary_key=True),
    Column("saved_at", Double, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

hooks: Final = Table(
    "procjobs_hooks",
    metadata,
    Column("pool", String(200), primary_key=True),
    Column("job_id", String(36), primary_key=True),
    Column("tries", Integer, nullable=False),
)

outbox: Final = Table(
    "procjobs_outbox",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("pool", String(200), nullable=False),
    Column("description", LargeBinary, nullable=False),
    Column("function", LargeBinary, nullable=False),
    Column("call", LargeBinary, nullable=False),
    Column("call_data", LargeBinary),
    Column("key", LargeBinary),
    Column("submitted_at", Double, nullable=False),
    Column("not_before", Double),
    Column("expires_at", Double),
    Column("meta", Text),
)

items: Final = Table(
    "procjobs_items",
    metadata,
    Column("place", BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True),
    Column("id", String(36), nullable=False),
    Column("pool", String(200), nullable=False),
    Column("queue", String(100), nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("added_at", Double, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("holder", Text),
    Column("held_since", Double),
    Column("lost_at", Double),
    Column("problem", Text),
    sqlite_autoincrement=True,  # a place is never given again, also when the last item has gone
)
Index("procjobs_items_id", items.c.id, unique=True)
_IS_WAITING: Final = text("holder IS NULL AND problem IS NULL")
Index("procjobs_items_waiting", items.c.pool, items.c.queue, items.c.place,
      sqlite_where=_IS_WAITING, postgresql_where=_IS_WAITING)  # fmt: skip
Index("procjobs_items_held", items.c.pool, items.c.holder,
      sqlite_where=text("holder IS NOT NULL"), postgresql_where=text("holder IS NOT NULL"))  # fmt: skip

schedules: Final = Table(
    "procjobs_schedules",
    metadata,
    Column("pool", String(200), primary_key=True),
    Column("name", String(100), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("is_declared", Integer, nullable=False),
    Column("is_paused", Integer, nullable=False),
    Column("cursor", BigInteger, nullable=False),
    Column("skipped", Integer, nullable=False),
    Column("missed", Integer, nullable=False),
    Column("last_period", BigInteger),
    Column("last_job", String(36)),
    Column("kind", String(32), nullable=False),
    Column("queue", String(100)),
    Column("priority", Integer, nullable=False),
    Column("key", LargeBinary),
    Column("meta", Text),
    Column("call", LargeBinary),
    Column("call_data", LargeBinary),
    Column("expires", Double),
    Column("created_at", Double, nullable=False),
    Column("changed_at", Double, nullable=False),
)

periods: Final = Table(
    "procjobs_periods",
    metadata,
    Column("pool", String(200), primary_key=True),
    Column("schedule", String(100), primary_key=True),
    Column("period", BigInteger, primary_key=True, autoincrement=False),
    Column("job_id", String(36), nullable=False),
    Column("recorded_at", Double, nullable=False),
    sqlite_with_rowid=False,  # a second index of keys that are as long as the rows would be twice the size
)
Index("procjobs_periods_recorded", periods.c.pool, periods.c.recorded_at)

_TYPES: Final = {
    "sqlite": {"{blob}": "BLOB", "{by_key}": "WITHOUT ROWID", "{serial}": "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT"},
    "postgresql": {"{blob}": "BYTEA", "{by_key}": "", "{serial}": "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"},
}
STEPS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE procjobs_kinds (digest VARCHAR(32) NOT NULL PRIMARY KEY, pool VARCHAR(200) NOT NULL,
        name TEXT NOT NULL, description {blob} NOT NULL, function {blob} NOT NULL)""",
        """CREATE TABLE procjobs_jobs (id VARCHAR(36) NOT NULL PRIMARY KEY, pool VARCHAR(200) NOT NULL,
        owner VARCHAR(32) NOT NULL, name TEXT NOT NULL, kind VARCHAR(32) NOT NULL, queue VARCHAR(100),
        priority INTEGER NOT NULL, key {blob}, unique_until DOUBLE PRECISION, state VARCHAR(16) NOT NULL, reason VARCHAR(16),
        attempt INTEGER NOT NULL, cut_off INTEGER NOT NULL, crashes INTEGER NOT NULL, error TEXT,
        submitted_at DOUBLE PRECISION NOT NULL, not_before DOUBLE PRECISION, expires_at DOUBLE PRECISION,
        started_at DOUBLE PRECISION, finished_at DOUBLE PRECISION, call {blob}, call_data {blob}, answer {blob},
        answer_data {blob})""",
        """CREATE INDEX procjobs_jobs_waiting ON procjobs_jobs (pool, priority DESC, id)
        WHERE owner = '' AND finished_at IS NULL""",
        """CREATE INDEX procjobs_jobs_unfinished ON procjobs_jobs (pool, state) WHERE finished_at IS NULL""",
        """CREATE INDEX procjobs_jobs_finished ON procjobs_jobs (finished_at)""",
        """CREATE INDEX procjobs_jobs_unique ON procjobs_jobs (pool, key) WHERE unique_until IS NOT NULL""",
        """CREATE TABLE procjobs_outbox (id VARCHAR(36) NOT NULL PRIMARY KEY, pool VARCHAR(200) NOT NULL,
        description {blob} NOT NULL, function {blob} NOT NULL, call {blob} NOT NULL, call_data {blob}, key {blob},
        submitted_at DOUBLE PRECISION NOT NULL, not_before DOUBLE PRECISION, expires_at DOUBLE PRECISION)""",
        """CREATE TABLE procjobs_attempts (job_id VARCHAR(36) NOT NULL, attempt INTEGER NOT NULL,
        outcome VARCHAR(16) NOT NULL, error TEXT, started_at DOUBLE PRECISION, ended_at DOUBLE PRECISION, worker INTEGER,
        worker_pid INTEGER, signal INTEGER, exit_code INTEGER, cpu_seconds DOUBLE PRECISION,
        peak_bytes DOUBLE PRECISION, progress TEXT, log TEXT, PRIMARY KEY (job_id, attempt))""",
    ),
    (
        """CREATE TABLE procjobs_claims (pool VARCHAR(200) NOT NULL PRIMARY KEY, epoch INTEGER NOT NULL,
        owner VARCHAR(32) NOT NULL, holder TEXT NOT NULL, beats INTEGER NOT NULL)""",
        """ALTER TABLE procjobs_jobs ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0""",
        # A supervisor killed at the wrong moment left two unfinished jobs of one key: the newer one keeps it.
        """UPDATE procjobs_jobs SET unique_until = NULL WHERE unique_until IS NOT NULL AND finished_at IS NULL AND EXISTS
        (SELECT 1 FROM procjobs_jobs other WHERE other.pool = procjobs_jobs.pool AND other.key = procjobs_jobs.key
        AND other.unique_until IS NOT NULL AND other.finished_at IS NULL AND other.id > procjobs_jobs.id)""",
        """CREATE UNIQUE INDEX procjobs_jobs_only_one ON procjobs_jobs (pool, key)
        WHERE unique_until IS NOT NULL AND finished_at IS NULL""",
    ),
    (
        """ALTER TABLE procjobs_jobs ADD COLUMN meta TEXT""",
        """ALTER TABLE procjobs_jobs ADD COLUMN retry_of VARCHAR(36)""",
        """ALTER TABLE procjobs_outbox ADD COLUMN meta TEXT""",
        """ALTER TABLE procjobs_attempts ADD COLUMN traceback TEXT""",
        """CREATE TABLE procjobs_checkpoints (job_id VARCHAR(36) NOT NULL PRIMARY KEY,
        saved_at DOUBLE PRECISION NOT NULL, data {blob} NOT NULL)""",
        """CREATE TABLE procjobs_hooks (pool VARCHAR(200) NOT NULL, job_id VARCHAR(36) NOT NULL, tries INTEGER NOT NULL,
        PRIMARY KEY (pool, job_id))""",
    ),
    (
        """CREATE TABLE procjobs_items (place {serial}, id VARCHAR(36) NOT NULL, pool VARCHAR(200) NOT NULL,
        queue VARCHAR(100) NOT NULL, value {blob} NOT NULL, added_at DOUBLE PRECISION NOT NULL, tries INTEGER NOT NULL,
        holder TEXT, held_since DOUBLE PRECISION, lost_at DOUBLE PRECISION, problem TEXT)""",
        """CREATE UNIQUE INDEX procjobs_items_id ON procjobs_items (id)""",
        """CREATE INDEX procjobs_items_waiting ON procjobs_items (pool, queue, place)
        WHERE holder IS NULL AND problem IS NULL""",
        """CREATE INDEX procjobs_items_held ON procjobs_items (pool, holder) WHERE holder IS NOT NULL""",
    ),
    (
        """ALTER TABLE procjobs_jobs ADD COLUMN schedule VARCHAR(100)""",
        """ALTER TABLE procjobs_jobs ADD COLUMN scheduled_for BIGINT""",
        """CREATE INDEX procjobs_jobs_scheduled ON procjobs_jobs (pool, schedule, finished_at)
        WHERE schedule IS NOT NULL""",
        """CREATE TABLE procjobs_schedules (pool VARCHAR(200) NOT NULL, name VARCHAR(100) NOT NULL, spec TEXT NOT NULL,
        is_declared INTEGER NOT NULL, is_paused INTEGER NOT NULL, cursor BIGINT NOT NULL, skipped INTEGER NOT NULL,
        missed INTEGER NOT NULL, last_period BIGINT, last_job VARCHAR(36), kind VARCHAR(32) NOT NULL, queue VARCHAR(100),
        priority INTEGER NOT NULL, key {blob}, meta TEXT, call {blob}, call_data {blob}, expires DOUBLE PRECISION,
        created_at DOUBLE PRECISION NOT NULL, changed_at DOUBLE PRECISION NOT NULL, PRIMARY KEY (pool, name))""",
        """CREATE TABLE procjobs_periods (pool VARCHAR(200) NOT NULL, schedule VARCHAR(100) NOT NULL,
        period BIGINT NOT NULL, job_id VARCHAR(36) NOT NULL, recorded_at DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (pool, schedule, period)) {by_key}""",
        """CREATE INDEX procjobs_periods_recorded ON procjobs_periods (pool, recorded_at)""",
    ),
)
VERSION: Final = len(STEPS)


def migrate(connection: Connection) -> None:
    """Bring the database to this version's tables, in the transaction that is open.

    Raise StoreUnavailable where a newer version of procjobs has been there: this one does not know its tables.
    """
    version = _version_of(connection)
    if version > VERSION:
        raise StoreUnavailable(
            f"the store's schema is version {version}, and this version of procjobs knows {VERSION}: a newer one has used "
            "it. Upgrade procjobs, or give the pool another store"
        )
    for step in STEPS[version:]:
        for statement in step:
            connection.execute(text(_with_types(statement, connection.dialect.name)))
    if version == 0:
        connection.execute(insert(versions).values(version=VERSION))
    elif version < VERSION:
        connection.execute(update(versions).values(version=VERSION))


def _with_types(statement: str, dialect: str) -> str:
    for word, kind in _TYPES[dialect].items():
        statement = statement.replace(word, kind)
    return statement


def _version_of(connection: Connection) -> int:
    if connection.dialect.name == "postgresql":  # two processes that come at once would both create the table
        connection.execute(text("SELECT pg_advisory_xact_lock(7226109)"))
    if not inspect(connection).has_table(versions.name):
        versions.create(connection)
        return 0
    return connection.scalar(select(func.max(versions.c.version))) or 0
