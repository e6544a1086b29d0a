"""The checks of a database URL, made where it is given. No message has the password in it."""

from __future__ import annotations

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from procjobs.errors import ConfigurationError
from procjobs.shared.passwords import hide

_KNOWN = ("sqlite", "postgresql", "mysql", "mariadb", "oracle", "mssql")
_SQLITE_IN_MEMORY = frozenset({None, "", ":memory:"})


def check_url(text: str | URL) -> URL:
    """Return the URL; raise ConfigurationError if it is not one that jobs can use."""
    try:
        url = make_url(text)
    except ArgumentError:
        raise ConfigurationError(
            "the database is not a URL that SQLAlchemy understands; expected one such as 'sqlite:////var/lib/app.db' "
            "or 'postgresql+psycopg://user:password@host/name'"
        ) from None
    shown = show(url)
    try:
        url.get_dialect()
    except NoSuchModuleError:
        raise ConfigurationError(f"database {shown}: SQLAlchemy knows no {url.drivername!r}{_suggest(url)}") from None
    if url.get_backend_name() == "sqlite" and url.database in _SQLITE_IN_MEMORY:
        raise ConfigurationError(f"database {shown}: each worker would have an empty one of its own in memory; name a file")
    return url


def show(url: URL) -> str:
    """Return the URL without its passwords."""
    return hide(url.render_as_string(hide_password=False))


def has_sync_driver(url: URL) -> bool:
    """Return whether ordinary functions can use it."""
    return not url.get_dialect().is_async


def has_async_driver(url: URL) -> bool:
    """Return whether coroutines can use it: its driver is for asyncio, or, such as psycopg, for both."""
    return url.get_dialect().get_async_dialect_cls(url).is_async


def _suggest(url: URL) -> str:
    import difflib

    backend, plus, driver = url.drivername.partition("+")
    close = difflib.get_close_matches(backend.replace("postgres", "postgresql"), _KNOWN, 1)
    return f" (did you mean {close[0] + plus + driver!r}?)" if close else ""
