"""The address of a store: the checks of `store=...` that need no database, and so no SQLAlchemy."""

from __future__ import annotations

import os
import re
import socket
from typing import Final
from urllib.parse import parse_qsl, urlencode

from procjobs.errors import ConfigurationError
from procjobs.shared import private_files
from procjobs.shared.passwords import hide
from procjobs.shared.state_directory import find_state_directory
from procjobs.shared.suggestions import suggest

_OPTIONS: Final = {"procjobs_synchronous", "procjobs_host"}
_SYNCHRONOUS: Final = {"normal", "full"}
_SQLITE: Final = "sqlite:///"
_USERINFO: Final = r"[\w+]+://(?:[^:/]*(?::[^@]*)?@)?"
"""The beginning of a URL as SQLAlchemy reads it: a password may have a question mark."""


def resolve(store: object, pool: str | None) -> str | None:
    """Return the URL of a store as it is given to the supervisor, whose working directory is another one.

    True is a file in the user's state directory. Raise ConfigurationError for a value that can be no store.
    """
    if store is None or store is False:
        return None
    if store is True:
        if pool is None:
            raise ConfigurationError("store=True needs a named pool, whose name the file gets; or give store= a URL")
        return f"{_SQLITE}{_make_state_directory()}/{pool}.db"
    if not isinstance(store, str):
        raise ConfigurationError(  # without the value, which may be a URL in some other form
            f"store=<{type(store).__name__}>: expected a URL such as 'sqlite:///jobs.db', True, or None"
        )
    base, query = _split_query(store)
    _check_options(query, is_sqlite=base.startswith("sqlite:"))
    if base.startswith("sqlite:"):
        path = base.removeprefix(_SQLITE)
        if path == base or path in {"", ":memory:"}:
            shown = hide(store)
            raise ConfigurationError(f"store={shown!r}: expected 'sqlite:///' and the path of a file, which is to last")
        return _SQLITE + os.path.abspath(path) + (f"?{query}" if query else "")
    if not base.startswith(("postgresql://", "postgresql+")):
        raise ConfigurationError(f"store={hide(store)!r}: expected sqlite:///... or postgresql+psycopg://...")
    return store


def _check_options(query: str, *, is_sqlite: bool) -> None:
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name.startswith("procjobs") and name not in _OPTIONS:
            raise ConfigurationError(f"the store's URL has an unknown option{suggest([name], _OPTIONS)}")
        if name == "procjobs_synchronous" and value not in _SYNCHRONOUS:
            raise ConfigurationError(f"procjobs_synchronous={value!r} in the store's URL: expected normal or full")
        if name == "procjobs_synchronous" and not is_sqlite:
            raise ConfigurationError("procjobs_synchronous is for SQLite; PostgreSQL has synchronous_commit of its own")


def split_options(url: str) -> tuple[str, dict[str, str]]:
    """Return the URL as the driver of the database takes it, and the options that are procjobs' own."""
    base, query = _split_query(url)
    pairs = parse_qsl(query, keep_blank_values=True)
    others = urlencode([(name, value) for name, value in pairs if name not in _OPTIONS])
    return base + (f"?{others}" if others else ""), {name: value for name, value in pairs if name in _OPTIONS}


def sqlite_path(url: str) -> str | None:
    """Return the path of an SQLite store, None for a store of another kind."""
    base, _ = _split_query(url)
    return base.removeprefix(_SQLITE) if base.startswith(_SQLITE) else None


def _split_query(url: str) -> tuple[str, str]:
    userinfo = re.match(_USERINFO, url)
    begin = url.find("?", userinfo.end() if userinfo is not None else 0)
    return (url, "") if begin < 0 else (url[:begin], url[begin + 1 :])


def _make_state_directory() -> str:
    directory = find_state_directory()
    if directory is None:
        why = f"HOME is {os.environ.get('HOME')!r}, and user {os.getuid()} has no home directory"
    else:
        try:
            private_files.make_directories(directory)
        except OSError as error:
            why = f"{directory} cannot be made: {error.strerror}"
        else:
            return directory
    raise ConfigurationError(
        f"store=True needs a place for its file: {why}. Set XDG_STATE_HOME to a directory of yours that lasts, or give "
        "store='sqlite:////PATH/jobs.db'"
    )


def store_name(url: str, pool: str | None) -> str:
    """Return the name of a pool in its store: a database that several hosts use has the pools of all of them."""
    name = pool or "private"
    options = split_options(url)[1]
    if sqlite_path(url) is not None and "procjobs_host" not in options:
        return name
    return f"{name}@{options.get('procjobs_host') or socket.gethostname()}"
