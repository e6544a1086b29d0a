"""`log`: the pool's own log, of a pool that runs, was killed, or has ended and had a log of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Final

import click

from procjobs.cli import parameters, screen
from procjobs.cli.problems import NOT_RUNNING, OK, Problem
from procjobs.client.running_pool import find_pool
from procjobs.clock import sleep
from procjobs.settings.plan import make_plan
from procjobs.shared.config import check_pool_name
from procjobs.shared.log_lines import WARNING

_INTERVAL: Final = 0.1


@click.command(short_help="Print the log of a pool.")
@parameters.name_argument
@click.option("--lines", "-n", type=click.IntRange(0), default=50, show_default=True, metavar="N", help="The last N lines.")
@click.option("--warnings", is_flag=True, help="Only lines that somebody should look at, such as failed jobs.")
@click.option("--follow", "-f", is_flag=True, help="Continue until Ctrl-C, or until the log is gone.")
@parameters.raw_option
@parameters.common
def log(
    name: str, lines: int, warnings: bool, follow: bool, is_raw: bool, directory: str | None, as_json: bool
) -> int:  # fmt: skip
    """Print the last lines of the log of the pool NAME: what happened to the pool, its failed jobs, the output of all jobs.

    The log goes with the pool, unless the pool has the setting `log`: then it can be read when the pool has ended.
    """
    path = _find(name, directory)
    found = _last([line for line in _read(path) if not warnings or _is_warning(line)], lines)
    if as_json:
        screen.write_json({"pool": name, "path": os.path.realpath(path), "text": "".join(found)})
        return OK
    write = screen.writer(sys.stdout, is_raw=is_raw)
    write("".join(found))
    if follow:
        for line in _follow(path):
            if not warnings or _is_warning(line):
                write(line)
    return OK


def _find(name: str, directory: str | None) -> str:
    """Return the path of a pool's log; raise Problem where there is none."""
    place = find_pool(check_pool_name(name), directory)
    if place is not None and os.path.exists(place.log):
        return place.log
    path = make_plan(name, {}).log
    if path is not None and os.path.exists(path):
        return path
    hint = f"there is no {path}"
    if path is None:
        hint = "its log has gone with it; the setting `log` gives it a path of its own"
    raise Problem(f"pool {name!r} is not running, and has left no log", hint, NOT_RUNNING)


def _read(path: str) -> list[str]:
    """Return the entries of a log, each with its indented lines, also those before the last rotation."""
    real = os.path.realpath(path)
    text = ""
    for part in (f"{real}.1", real):
        try:
            with open(part, encoding="utf-8", errors="replace", newline="\n") as file:
                text += file.read()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise Problem(f"the log of the pool cannot be read: {error}") from None
    return _entries(text)


def _entries(text: str) -> list[str]:
    entries: list[str] = []
    for line in text.splitlines(keepends=True):
        if line.startswith("    ") and entries:
            entries[-1] += line
        else:
            entries.append(line)
    return entries


def _last(entries: list[str], lines: int) -> list[str]:
    """Return the last entries with at least this number of lines, all of them if there are fewer."""
    kept, count = len(entries), 0
    while kept and count < lines:
        kept -= 1
        count += entries[kept].count("\n")
    return entries[kept:]


def _is_warning(entry: str) -> bool:
    """Return whether an entry has the mark after its date and time."""
    return entry[20:].startswith(WARNING)


def _follow(path: str) -> Iterator[str]:
    """Yield the entries that are written from now on; end when the log is gone. A rotated log is read to its end."""
    file = open(path, encoding="utf-8", errors="replace", newline="\n")  # noqa: SIM115 - closed below, replaced in the loop
    try:
        file.seek(0, os.SEEK_END)
        while True:
            text = file.read()
            yield from _entries(text)
            if text:
                continue
            sleep(_INTERVAL)
            try:
                is_same = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
                if not is_same:
                    yield from _entries(file.read())
                    file.close()
                    file = open(path, encoding="utf-8", errors="replace", newline="\n")  # noqa: SIM115 - see above
            except FileNotFoundError:
                yield from _entries(file.read())
                return
    finally:
        file.close()
