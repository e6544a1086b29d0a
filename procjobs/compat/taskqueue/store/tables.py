"""The tables of the queues, in the database of the store; and the clock of their columns.

All times are integers: microseconds since 1970 in UTC.

A task is in one of three states:

    waiting   the sender, or a consumer, may have it from `eta_usec` on. A leased task of a pull queue waits, too: its
              `eta_usec` is the end of the lease. Entered when it is added, when an attempt has failed or was cut off.
    running   the sender has a request under way for it; `run` says which. Push queues only.
    ended     it is done, given up, deleted or purged (`outcome`). Nothing is left of it but its name, which cannot be used
              again until TOMBSTONE_SECONDS later. Nothing leaves this state.

Each change of a task that runs names the `run` that it expects, so that an attempt writes nothing into a task that was
deleted, or begun again, meanwhile.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    insert,
    inspect,
    select,
    text,
)

from procjobs.compat.taskqueue.constants import MAX_QUEUE_NAME_LENGTH, MAX_TAG_LENGTH, MAX_TASK_NAME_LENGTH
from procjobs.compat.taskqueue.signing import KEY_BYTES
from procjobs.errors import StoreUnavailable

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = [
    "DATABASE_ID", "ENDED", "GENERATION", "RUNNING", "SIGNING_KEY", "VERSION", "WAITING",
    "create", "executions", "now_usec", "payloads", "prepare", "queues", "read_setting", "settings", "tasks",
]  # fmt: skip

WAITING: Final = "waiting"
RUNNING: Final = "running"
ENDED: Final = "ended"

_PREFIX: Final = "procjobs_taskqueue_"
_CREATION_LOCK: Final = 7_226_111
"""The advisory lock of PostgreSQL under which the tables are created: two processes that come at once would both do it."""
_BIG_ID: Final = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers the rows by itself only where the type is INTEGER, which has 64 bits there."""

metadata: Final = MetaData()

tasks: Final = Table(
    f"{_PREFIX}tasks",
    metadata,
    Column("id", _BIG_ID, primary_key=True),
    Column("queue", String(MAX_QUEUE_NAME_LENGTH), nullable=False),
    Column("name", String(MAX_TASK_NAME_LENGTH), nullable=False),
    Column("state", String(8), nullable=False),
    Column("mode", String(4), nullable=False),
    Column("method", String(8), nullable=False),
    Column("url", Text, nullable=False),
    Column("target", Text),
    Column("headers", Text, nullable=False),  # JSON: a list of pairs
    Column("payload", LargeBinary),
    Column("tag", String(MAX_TAG_LENGTH)),
    Column("eta_usec", BigInteger, nullable=False),  # the next attempt's, or the end of the lease
    Column("posted_eta_usec", BigInteger, nullable=False),
    Column("added_usec", BigInteger, nullable=False),
    Column("first_try_usec", BigInteger),
    Column("retry_count", Integer, nullable=False),
    Column("execution_count", Integer, nullable=False),
    Column("previous_response", Integer),
    Column("retry_reason", Text),
    Column("retry", Text),  # JSON of RetryParameters; null: those of the queue
    Column("deadline_usec", BigInteger),
    Column("run", String(64)),  # the attempt that is under way, or the last call that has leased it
    Column("call", String(32), nullable=False),  # the call that has added it
    Column("size", Integer, nullable=False),
    Column("ended_usec", BigInteger),
    Column("outcome", String(32)),
)
"""One row for each task, and for each name that cannot be used again yet."""
Index(f"{_PREFIX}tasks_name", tasks.c.queue, tasks.c.name, unique=True)
Index(f"{_PREFIX}tasks_next", tasks.c.queue, tasks.c.state, tasks.c.eta_usec, tasks.c.id)
Index(f"{_PREFIX}tasks_tag", tasks.c.queue, tasks.c.state, tasks.c.tag, tasks.c.eta_usec, tasks.c.id)
_HAS_ENDED: Final = tasks.c.ended_usec.is_not(None)
Index(f"{_PREFIX}tasks_ended", tasks.c.ended_usec, sqlite_where=_HAS_ENDED, postgresql_where=_HAS_ENDED)

payloads: Final = Table(
    f"{_PREFIX}payloads",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("task", _BIG_ID, ForeignKey(tasks.c.id), nullable=False, index=True),
    Column("data", LargeBinary, nullable=False),
)
"""Payloads that are larger than a task may be, for the handler of a task, which knows the id; deleted with their task."""

queues: Final = Table(
    f"{_PREFIX}queues",
    metadata,
    Column("name", String(MAX_QUEUE_NAME_LENGTH), primary_key=True),
    Column("settings", Text, nullable=False),  # JSON of QueueSettings, as last configured
    Column("tokens", Double),  # of the bucket, at `tokens_at_usec`; null: full
    Column("tokens_at_usec", BigInteger),
    Column("enforced_rate", Double),  # tasks per second; null: as configured
    Column("configured_usec", BigInteger, nullable=False),
)
"""What the sender knows of each queue."""

executions: Final = Table(
    f"{_PREFIX}executions",
    metadata,
    Column("id", _BIG_ID, primary_key=True),
    Column("queue", String(MAX_QUEUE_NAME_LENGTH), nullable=False),
    Column("at_usec", BigInteger, nullable=False),
    Column("count", Integer, nullable=False),
)
"""How many tasks were begun or leased at a time; for the statistics of the last minute."""
Index(f"{_PREFIX}executions_at", executions.c.at_usec)  # rows of the last minute are all that there are

settings: Final = Table(
    f"{_PREFIX}settings",
    metadata,
    Column("key", String(40), primary_key=True),
    Column("value", Text, nullable=False),
)
"""What belongs to the whole database."""

VERSION: Final = "version"
"""The version of the tables."""
SIGNING_KEY: Final = "signing_key"
"""In hexadecimal digits: the key of the signatures of requests."""
DATABASE_ID: Final = "database_id"
"""Random: tells whether two connections reach the same tables."""
GENERATION: Final = "generation"
"""The number of the sender that may write; greater by one for each that has taken over."""
_CURRENT_VERSION: Final = "1"


def now_usec() -> int:
    """Return the time as the tables have it."""
    return time.time_ns() // 1000


def prepare(connection: Connection) -> None:
    """Create the tables in the open transaction where they are not there.

    Raise StoreUnavailable where a newer version of procjobs has been there.
    """
    version = _read_version(connection)
    if version is None and connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATION_LOCK})
        version = _read_version(connection)
    if version is None:
        create(connection)
    elif int(version) > int(_CURRENT_VERSION):
        raise StoreUnavailable(
            f"the tables of the task queues are version {version}, and this version of procjobs knows {_CURRENT_VERSION}: a "
            "newer one has used them. Upgrade procjobs, or give the task queues another store"
        )


def create(connection: Connection) -> None:
    """Create all tables in the open transaction, with a new signing key."""
    metadata.create_all(connection)
    values = {
        VERSION: _CURRENT_VERSION, SIGNING_KEY: secrets.token_hex(KEY_BYTES), DATABASE_ID: secrets.token_hex(16),
        GENERATION: "0",
    }  # fmt: skip
    connection.execute(insert(settings), [{"key": key, "value": value} for key, value in values.items()])


def _read_version(connection: Connection) -> str | None:
    return read_setting(connection, VERSION) if inspect(connection).has_table(settings.name) else None


def read_setting(connection: Connection, key: str) -> str:
    """Return the value of one of the settings above."""
    return str(connection.scalar(select(settings.c.value).where(settings.c.key == key)))
