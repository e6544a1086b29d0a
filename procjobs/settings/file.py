"""The settings file of a host's pools: finding it, reading it, checking it.

It is the first of these that exists:

1. the file that $PROCJOBS_CONFIG names (/dev/null: no file at all);
2. in the current directory, and then in each one above it up to /: `procjobs.toml`, or a `pyproject.toml` that has a table
   [tool.procjobs].

    [default]                           for all pools
    [default.hosts."build-*"]           for all pools on these hosts
    [pool.media]                        for the pool "media"
    [pool.media.hosts."web-*"]          for it on these hosts
    [pool.media.schedules.nightly]      a schedule of it (procjobs.settings.schedule_tables); also under hosts."web-*"

A setting, and a schedule as a whole, is taken from the lowest of these that has it.
A host's table is named by the host's name, with or without its
domain, or by a pattern as in fnmatch. A whole name comes before a short name, a short name before a pattern, a longer
pattern before a shorter one, and of two of the same length the last one holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from procjobs.errors import ConfigurationError
from procjobs.settings.keys import SETTINGS, check_written, parse_text_in_file, suggest
from procjobs.settings.schedule_tables import FileSchedule, find_unknown, read_schedule
from procjobs.shared.config import check_pool_name

VARIABLE: Final = "PROCJOBS_CONFIG"
OWN_NAME: Final = "procjobs.toml"
PROJECT_NAME: Final = "pyproject.toml"
_MAX_BYTES: Final = 2**20
# To parse every project's file costs milliseconds, and most have nothing for us: this finds [tool.procjobs], however it is
# written.
# Not compiled here: see procjobs.settings.keys.
_HAS_TABLE: Final = rb"""\btool["']?\s*(\.\s*["']?procjobs\b|[]=])"""
_BARE: Final = r"[A-Za-z0-9_-]+\Z"


class Table(NamedTuple):
    """A table of settings: its header as written, its pool and host (None: every one), and checked values.

    `schedules` is None where the table says nothing of schedules.
    """

    header: str
    pool: str | None
    host: str | None
    values: dict[str, Any]
    schedules: dict[str, FileSchedule] | None = None

    def __repr__(self) -> str:
        return f"Table({self.header})"  # the value of a store may have a password


class SettingsFile(NamedTuple):
    """The contents of a file, and its problems, in sentences."""

    path: str
    tables: tuple[Table, ...]
    problems: tuple[str, ...]

    def require_valid(self) -> SettingsFile:
        """Return it; raise ConfigurationError if anything is wrong in it."""
        if self.problems:
            others = len(self.problems) - 1
            more = f" (and {others} more; `procjobs check` lists them)" if others else ""
            raise ConfigurationError(self.problems[0] + more)
        return self

    def pools(self) -> list[str]:
        """Return the names of the pools that have a table."""
        return list(dict.fromkeys(table.pool for table in self.tables if table.pool is not None))

    def holding(self, pool: str | None, host_names: Sequence[str]) -> list[Table]:
        """Return the tables that hold for a pool on a host of these names; the first one overrides the others."""
        holding = []
        for number, table in enumerate(self.tables):
            strength = (0, 0) if table.host is None else match_host(table.host, host_names)
            if table.pool in {None, pool} and strength is not None:
                holding.append(((table.pool is not None, *strength, number), table))
        return [table for _, table in sorted(holding, reverse=True)]


def match_host(pattern: str, names: Sequence[str]) -> tuple[int, int] | None:
    """Return how well a pattern fits a host, a higher value for a better fit; None if it does not fit.

    The first of the host's names is its whole name.

    >>> names = ["web-1.example.org", "web-1"]
    >>> [match_host(pattern, names) for pattern in ("web-1.example.org", "WEB-1", "web-*", "db-*")]
    [(3, 0), (2, 0), (1, 5), None]
    """
    import fnmatch

    pattern, names = pattern.lower(), [name.lower() for name in names]
    if pattern in names:
        return (3 if pattern == names[0] else 2), 0
    return (1, len(pattern)) if any(fnmatch.fnmatchcase(name, pattern) for name in names) else None


def quoted(key: str) -> str:
    """Return a key as it is written in the header of a table.

    >>> quoted("web-1"), quoted("web-*")
    ('web-1', '"web-*"')
    """
    return key if re.match(_BARE, key) else in_quotes(key)


def in_quotes(text: str) -> str:
    """Return text as a string of TOML, which escapes the same characters as JSON."""
    return json.dumps(text, ensure_ascii=False)


# Finding and reading ----------------------------------------------------------------------------------------------


def find_file() -> str | None:
    """Return the path of the settings file, None if there is none; raise ConfigurationError if the named one is missing."""
    named = os.environ.get(VARIABLE)
    if named:
        if not os.path.exists(named):
            raise ConfigurationError(f"{VARIABLE}={named}: there is no such file")
        return None if named == os.devnull else os.path.abspath(named)
    return next((path for path in _candidates() if _is_meant(path)), None)


def _candidates() -> Iterator[str]:
    try:
        folder = os.getcwd()
    except FileNotFoundError:  # it was removed
        return
    while True:
        yield os.path.join(folder, OWN_NAME)
        yield os.path.join(folder, PROJECT_NAME)
        if folder == (folder := os.path.dirname(folder)):
            return


def _is_meant(path: str) -> bool:
    try:
        info = os.stat(path)
    except OSError:
        return False
    # In a directory like /tmp any user may leave a file for others.
    if info.st_uid not in {0, os.getuid()} and os.stat(os.path.dirname(path)).st_mode & stat.S_IWOTH:
        return False
    if path.endswith(f"/{OWN_NAME}"):
        return True
    with contextlib.suppress(ConfigurationError):
        return _load(path, info) is not None
    return False


_loaded: dict[str, tuple[tuple[int, int, int, int], SettingsFile | None]] = {}
"""The files that were read, by path, with the stamp that changes with the file. None: a project's file without our table."""


def load_file(path: str) -> SettingsFile:
    """Return the contents of a file; raise ConfigurationError if it cannot be read."""
    try:
        return _load(path, os.stat(path)) or SettingsFile(path, (), ())
    except OSError as error:
        raise _unreadable(path, error) from error


def _load(path: str, info: os.stat_result) -> SettingsFile | None:
    stamp = info.st_ino, info.st_mtime_ns, info.st_ctime_ns, info.st_size
    known = _loaded.get(path)
    if known is None or known[0] != stamp:
        known = _loaded[path] = stamp, _parse_file(path)
    return known[1]


def _parse_file(path: str) -> SettingsFile | None:
    content = _read_bytes(path)
    is_project = os.path.basename(path) == PROJECT_NAME
    found = re.search(_HAS_TABLE, content)
    if is_project and found is None:
        return None
    import tomllib

    try:
        document = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # of TOML, or of UTF-8
        if found is not None and not found[1].startswith(b"."):
            return None  # a project's file that is broken, and has nothing for us as far as it can be read
        return SettingsFile(path, (), (f"{path} is not valid TOML: {error or 'it is nested too deeply'}",))
    if not is_project:
        return parse_document(path, document, "")
    tool = document.get("tool")
    if not isinstance(tool, dict) or "procjobs" not in tool:
        return None
    return parse_document(path, tool["procjobs"], "tool.procjobs.")


def _read_bytes(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe in its place must not make this process hang
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigurationError(f"the settings file {path} is not a regular file")
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(content) > _MAX_BYTES:
        raise ConfigurationError(f"the settings file {path} is larger than {_MAX_BYTES} bytes: is it the right one?")
    return content


def _unreadable(path: str, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"the settings file {path} cannot be read: {error.strerror}")


# Understanding ------------------------------------------------------------------------------------------------------


def parse_document(path: str, document: Any, prefix: str) -> SettingsFile:
    """Return the tables of a document, and its problems. `prefix` is the beginning of headers in this file."""
    reader = _Reader(path, prefix)
    reader.read(document)
    return SettingsFile(path, tuple(reader.tables), tuple(reader.problems))


class _Reader:
    """Collects the tables of one document, and the problems in them."""

    def __init__(self, path: str, prefix: str) -> None:
        self._path = path
        self._prefix = prefix
        self.tables: list[Table] = []
        self.problems: list[str] = []

    def _complain(self, header: str, text: str) -> None:
        self.problems.append(f"{self._path}: {header} {text}")

    def _header(self, *keys: str) -> str:
        return f"[{self._prefix}{'.'.join(map(quoted, keys))}]"

    def read(self, document: Any) -> None:
        """Read the whole document."""
        if not isinstance(document, dict):
            self._complain(f"[{self._prefix.rstrip('.')}]", "is not a table")
            return
        for key, value in document.items():
            if key == "default":
                self._read_table(value, None, "default")
            elif key == "pool" and isinstance(value, dict):
                for name, table in value.items():
                    self._read_pool(name, table)
            elif key in SETTINGS:
                self._complain(
                    key, f"stands outside of a table: for all pools it belongs under {self._header('default')}"
                )
            else:
                text = "is not a table" if key == "pool" else f"is not known; {suggest(key, ('default', 'pool'))}"
                if key == "schedules":
                    text = f"belongs to a pool: {self._header('pool', 'NAME', 'schedules', 'nightly')}"
                self._complain(self._header(key), text)

    def _read_pool(self, name: str, table: Any) -> None:
        if name in SETTINGS and not isinstance(table, dict):
            self._complain(
                self._header("pool"), f"{name}: for all pools it belongs under {self._header('default')}, for one under "
                f"{self._header('pool', 'NAME')}"
            )  # fmt: skip
            return
        try:
            check_pool_name(name)
        except ConfigurationError as error:
            self._complain(self._header("pool", name), str(error))
            return
        self._read_table(table, name, "pool", name)

    def _read_table(self, table: Any, pool: str | None, *keys: str) -> None:
        if not isinstance(table, dict):
            self._complain(self._header(*keys), "is not a table")
            return
        hosts = table.get("hosts", {})
        self._add(table, pool, None, keys)
        if not isinstance(hosts, dict):
            self._complain(self._header(*keys), 'hosts is not a table: hosts are named as in [pool.NAME.hosts."web-*"]')
            return
        for host, values in hosts.items():
            if isinstance(values, dict):
                self._add(values, pool, host, (*keys, "hosts", host))
            else:
                self._complain(self._header(*keys, "hosts", host), "is not a table")

    def _add(self, table: dict[str, Any], pool: str | None, host: str | None, keys: Sequence[str]) -> None:
        header = self._header(*keys)
        values = {}
        for name, value in table.items():
            if name == "schedules" or (name == "hosts" and host is None):
                continue
            if name not in SETTINGS:
                self._complain(header, self._describe_unknown(name, value, host))
                continue
            try:
                read = parse_text_in_file(name, value) if isinstance(value, str) else value
                values[name] = check_written(name, read)
            except (ConfigurationError, TypeError) as error:
                self._complain(header, str(error))
        if values.get("workers", "auto") != "auto" and "reserve" in values:
            self._complain(
                header, 'workers and reserve contradict each other: a reserve is what workers = "auto" leaves'
            )
        schedules = self._read_schedules(table["schedules"], pool, keys) if "schedules" in table else None
        self.tables.append(Table(header, pool, host, values, schedules))

    def _read_schedules(self, schedules: Any, pool: str | None, keys: Sequence[str]) -> dict[str, FileSchedule]:
        header = self._header(*keys, "schedules")
        if pool is None:
            example = self._header("pool", "NAME", "schedules", "nightly")
            self._complain(header, f"is for all pools, and a schedule belongs to one: {example}")
            return {}
        if not isinstance(schedules, dict):
            self._complain(header, f"is not a table: a schedule has a name, as in {header[:-1]}.nightly]")
            return {}
        found = {}
        for name, table in schedules.items():
            if not isinstance(table, dict):
                self._complain(header, f"{name}: a schedule has a name, and is a table: {header[:-1]}.nightly]")
            elif schedule := self._read_schedule(name, table, self._header(*keys, "schedules", name)):
                found[name] = schedule
        return found

    def _read_schedule(self, name: str, table: dict[str, Any], header: str) -> FileSchedule | None:
        unknown = list(find_unknown(table))
        for text in unknown:
            self._complain(header, text)
        if unknown:
            return None
        try:
            return read_schedule(name, table, f"{self._path} {header}")
        except (ConfigurationError, TypeError) as error:
            self._complain(header, str(error))
            return None

    @staticmethod
    def _describe_unknown(name: str, value: Any, host: str | None) -> str:
        if host is not None and isinstance(value, dict):
            return f'{name}: a host\'s name with dots stands in quotes, as in hosts."web-1.example.org"'
        known = [*SETTINGS, "schedules", *([] if host is not None else ["hosts"])]
        return f"has an unknown setting {name!r}; {suggest(name, known)}"
