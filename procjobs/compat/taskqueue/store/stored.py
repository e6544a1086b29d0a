"""What the application reads from the database of the queues by itself: the key of the signatures, and large payloads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from procjobs.compat.taskqueue.settings import configuration

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

T = TypeVar("T")

__all__ = ["load_payload", "load_signing_key"]


def load_signing_key() -> bytes:
    """Return the key; blocks for the database.

    Raise NotConfiguredError where `configure` was not called, TransientError where the database cannot be used.
    """
    from procjobs.compat.taskqueue.store import tables

    return bytes.fromhex(_run(lambda connection: tables.read_setting(connection, tables.SIGNING_KEY)))


def load_payload(key: str) -> bytes | None:
    """Return the bytes of a large payload, None where its task has ended; blocks, and raises, as `load_signing_key`."""
    from sqlalchemy import select

    from procjobs.compat.taskqueue.store.tables import payloads

    return _run(lambda connection: connection.scalar(select(payloads.c.data).where(payloads.c.id == key)))


def _run(function: Callable[[Connection], T]) -> T:
    from procjobs.compat.taskqueue.store.database import (
        Database,  # SQLAlchemy is loaded where a request of the queue comes
    )

    return Database(configuration.current().store).run(function)
