"""The database of the queues: one connection for each process, shared by its threads, made again in a child of a fork."""

from __future__ import annotations

from typing import TYPE_CHECKING

from procjobs.compat.taskqueue import tables

if TYPE_CHECKING:
    from procjobs.sql import OwnConnection

__all__ = ["open_database"]


def open_database(url: str) -> OwnConnection:
    """Return the connection of this process to the queues in a store; nothing is opened before the first transaction.

    `run(function)` of it calls a function with a connection, in one transaction, and once more where the database has
    refused it or its answer was lost. So a function has to find out by itself what the call before may have committed.
    """
    from procjobs.sql import connection_to

    connection = connection_to(url)
    connection.prepare(tables.prepare)
    return connection
