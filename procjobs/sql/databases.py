"""Everything that jobs can be given as their database: the types, and the checks.

A URL, an object of SQLAlchemy that makes sessions, or a function that returns such an object.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import URL, Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from procjobs.errors import ConfigurationError
from procjobs.sql.urls import check_url

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

Sessions: TypeAlias = Engine | sessionmaker[Any] | scoped_session[Any]
AnySessions: TypeAlias = "Sessions | AsyncEngine | async_sessionmaker[Any]"
Database: TypeAlias = "str | URL | AnySessions | Callable[[], AnySessions]"

_EXTENSION: Final = "sqlalchemy.ext.asyncio"
"""Objects of asyncio exist only where this module is loaded; to load it takes asyncio."""


def is_sync(database: object) -> bool:
    """Return whether this is an Engine, a sessionmaker or a scoped_session."""
    return isinstance(database, Engine | sessionmaker | scoped_session)


def is_async(database: object) -> bool:
    """Return whether this is an AsyncEngine or an async_sessionmaker."""
    extension = sys.modules.get(_EXTENSION)
    return extension is not None and isinstance(database, extension.AsyncEngine | extension.async_sessionmaker)


def check_database(database: Database) -> Database:
    """Return the database, a URL as an object; raise ConfigurationError if jobs cannot use it."""
    if isinstance(database, str | URL):
        return check_url(database)
    if isinstance(database, Session):
        raise ConfigurationError(f"{database!r} is one session; to make their own, jobs need a URL or a sessionmaker")
    _refuse_async_session(database)
    if not callable(database) and not is_sync(database) and not is_async(database):
        raise ConfigurationError(
            f"database={database!r}: expected a URL, an Engine, a sessionmaker, a scoped_session, an AsyncEngine, an "
            "async_sessionmaker, or a function that returns one of them"
        )
    return database


def _refuse_async_session(database: object) -> None:
    extension = sys.modules.get(_EXTENSION)
    if extension is None:
        return
    if isinstance(database, extension.AsyncSession):
        raise ConfigurationError(f"{database!r} is one session; to make their own, jobs need a URL or an async_sessionmaker")
    if isinstance(database, extension.async_scoped_session):
        raise ConfigurationError(
            f"{database!r} gives each task a session, and a job has one for all of its tasks; give its session_factory, the "
            "async_sessionmaker that it was made of"
        )
