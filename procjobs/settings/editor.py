"""Writes one setting into the settings file: the number of workers that a pool has on this host.

    [pool.media.hosts."web1"]
    workers = 4

1. It is written to the file that holds the settings (procjobs.settings.file). Where there is none, `procjobs.toml`
   is made here, for this user alone.
2. Nothing else in it changes: comments, order and formatting are kept. The new text is parsed and compared before it is
   written.
3. The file is replaced whole (rename(2)): readers see the old file or the new one.
"""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from procjobs.errors import ConfigurationError
from procjobs.settings.file import OWN_NAME, PROJECT_NAME, VARIABLE, find_file, in_quotes, quoted
from procjobs.settings.plan import host_names
from procjobs.shared.config import check_pool_name
from procjobs.shared.private_files import FILE_MODE

_IN_PROJECT: Final = ("tool", "procjobs")


class Place(NamedTuple):
    """The place of the settings: a file, which may not exist yet, and the tables in it that they are below."""

    path: Path
    below: tuple[str, ...] = ()


class Change(NamedTuple):
    """A write: its file and table, the number, and the number before, None if there was none."""

    path: Path
    table: str
    workers: int
    before: int | None
    is_new_file: bool

    def __str__(self) -> str:
        if self.before == self.workers:
            return f"{self.path} says so already: {self.table} workers = {self.workers}"
        was = "" if self.before is None else f" (was {self.before!r})"
        return f"{'made' if self.is_new_file else 'changed'} {self.path}: {self.table} workers = {self.workers}{was}"


def find_place() -> Place:
    """Return the place where this host's settings are written.

    Raise ConfigurationError if the variable names no regular file, such as /dev/null, which means "no settings".
    """
    path = find_file()
    if path is not None:
        return Place(Path(path), _IN_PROJECT if os.path.basename(path) == PROJECT_NAME else ())
    if named := os.environ.get(VARIABLE):
        raise ConfigurationError(f"{VARIABLE}={named} is no file that can be written; make it, or unset the variable")
    return Place(Path.cwd() / OWN_NAME)


def choose_pool(place: Place, asked: str | None) -> str:
    """Return the pool that was asked for, else the only one in the file; raise ConfigurationError if there is no such."""
    check_installed()
    data = _read(place.path)[1]
    if asked is not None:
        _check_tables(place, data, asked)
        return check_pool_name(asked)
    pools: list[str] = sorted(_at(data, (*place.below, "pool")) or {})
    if len(pools) != 1:
        there = f"there are {', '.join(pools)}" if pools else "it has none yet"
        raise ConfigurationError(f"which pool of {place.path} is meant? {there}; name it: --write=NAME")
    _check_tables(place, data, pools[0])
    return pools[0]


def check_installed() -> None:
    """Raise ConfigurationError if the package that writes TOML is not installed."""
    import importlib.util

    if importlib.util.find_spec("tomlkit") is None:
        raise ConfigurationError("writing settings needs tomlkit: pip install 'procjobs[cli]'")


def write_workers(place: Place, pool: str, workers: int, host: str | None = None) -> Change:
    """Write how many workers a pool has on this host, and return the change.

    Raise ConfigurationError, with the lines to write by hand, where the file cannot be written.
    """
    host = host_names()[0] if host is None else host
    keys = (*place.below, "pool", check_pool_name(pool), "hosts", host)
    text, data = _read(place.path)
    _check_tables(place, data, pool, host)
    header = f"[{'.'.join(map(quoted, keys[:-1]))}.{in_quotes(host)}]"
    there = _at(data, keys) or {}
    if "reserve" in there:  # the CPUs that workers="auto" leaves free
        raise ConfigurationError(
            f"{place.path}: {header} has a reserve, which a number of workers contradicts; remove it"
        )
    before = there.get("workers")
    change = Change(place.path, header, workers, before, not place.path.exists())
    if before != workers:
        expected = _with_workers(data, keys, workers)
        by_hand = f"write it by hand: {header} workers = {workers}"
        wanted = next((new for new in _candidates(text, keys, header, workers) if _parsed(new) == expected), None)
        if wanted is None:
            raise ConfigurationError(f"{place.path} cannot be changed without changing something else; {by_hand}")
        try:
            _replace(place.path, wanted)
        except OSError as error:
            raise ConfigurationError(f"{place.path} cannot be written: {error.strerror or error}; {by_hand}") from error
    return change


def _candidates(text: str, keys: tuple[str, ...], header: str, workers: int) -> Iterator[str]:
    """Yield the file as it might be afterwards, the best way first.

    A new table goes to the end: between others, it would come below the comment that belongs to the next one. If the table
    is there already, or one above it is written in braces, that is not TOML, and the text has to be edited.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    kept = text.rstrip() + newline * 2 if text.strip() else ""
    yield f"{kept}{header}{newline}workers = {workers}{newline}"
    with contextlib.suppress(Exception):  # tomlkit has bugs with tables out of order; then nothing is written
        yield _edited(text, keys, workers)


def _edited(text: str, keys: tuple[str, ...], workers: int) -> str:
    import tomlkit
    from tomlkit.items import InlineTable

    document = tomlkit.parse(text)
    table: Any = document
    for key in keys:
        if key not in table:
            table[key] = tomlkit.inline_table() if isinstance(table, InlineTable) else tomlkit.table()
        table = table[key]
    table["workers"] = workers
    return tomlkit.dumps(document)


def _with_workers(data: Mapping[str, Any], keys: tuple[str, ...], workers: int) -> dict[str, Any]:
    whole = copy.deepcopy(dict(data))
    table = whole
    for key in keys:
        table = table.setdefault(key, {})
    table["workers"] = workers
    return whole


def _check_tables(place: Place, data: Mapping[str, Any], pool: str, host: str | None = None) -> None:
    """Raise ConfigurationError where something else is in the place of a table."""
    keys = [*place.below, "pool", pool, "hosts", *([] if host is None else [host])]
    for number in range(1, len(keys) + 1):
        value = _at(data, tuple(keys[:number]))
        if value is not None and not isinstance(value, dict):
            name = ".".join(map(quoted, keys[:number]))
            raise ConfigurationError(f"{place.path}: {name} is {value!r}, and should be a table; mend the file first")


def _at(data: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    """Return the value at a place in nested tables, None if there is none."""
    value: Any = data
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return value


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Return a file's text and its contents; both are empty if there is no file."""
    try:
        text = path.read_bytes().decode()
        return text, tomllib.loads(text)
    except FileNotFoundError:
        return "", {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all; a link to it stays a link, and its mode is kept. A new one is this user's alone."""
    path = path.resolve()
    descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(text.encode())
            os.fchmod(file.fileno(), _mode_of(path))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise


def _mode_of(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o7777
    except FileNotFoundError:
        return FILE_MODE  # it may get a password, and whoever could write it could run code
