"""What a database URL has to be like, checked where it is given. No message has the password in it."""

from __future__ import annotations

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from procjobs.errors import ConfigurationError

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
    shown = url.render_as_string(hide_password=True)
    try:
        dialect = url.get_dialect()
    except NoSuchModuleError:
        raise ConfigurationError(f"database {shown}: SQLAlchemy knows no {url.drivername!r}{_suggest(url)}") from None
    if dialect.is_async:
        raise ConfigurationError(
            f"database {shown}: {url.drivername} is for asyncio, and jobs are ordinary functions; give the URL with a "
            "driver that blocks, such as postgresql+psycopg or sqlite"
        )
    if url.get_backend_name() == "sqlite" and url.database in _SQLITE_IN_MEMORY:
        raise ConfigurationError(f"database {shown}: each worker would have an empty one of its own in memory; name a file")
    return url


def _suggest(url: URL) -> str:
    import difflib

    backend, plus, driver = url.drivername.partition("+")
    close = difflib.get_close_matches(backend.replace("postgres", "postgresql"), _KNOWN, 1)
    return f" (did you mean {close[0] + plus + driver!r}?)" if close else ""
