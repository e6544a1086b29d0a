"""The attempts that workers of a killed supervisor had started: in a file until the store has counted them.

The table of that supervisor tells them, and goes with the next supervisor, or with one of another pool that sweeps up. Until
the recorder has reached the database, which may be away, that next one may be killed as well. A supervisor with another
directory, which takes the jobs over, reads them where they are.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Final

from procjobs.host.rundir import PRIVATE_PREFIX, RunDir
from procjobs.host.signature import ForeignFileError
from procjobs.shared import private_files
from procjobs.shared.table.post_mortem import PostMortemTable

_KEY: Final = "attempts begun under a killed supervisor of procjobs"
"""It says in the file what the file is; one without it is not ours."""


class StartedAttempts:
    """The attempts by job id, as text."""

    def __init__(self, directory: RunDir, attempts: dict[str, int]) -> None:
        self.attempts = attempts
        self._path = directory.begun

    def forget(self) -> None:
        """Drop them and the file: the store has counted them."""
        self.attempts = {}
        with contextlib.suppress(OSError):
            if _read_own(self._path) is not None:
                os.unlink(self._path)


def read(directory: RunDir) -> dict[str, int]:
    """Return the attempts that were started, by job id; none where there is neither file nor readable table."""
    attempts: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        table = PostMortemTable(directory.table, loads=bytes)
        attempts = table.begun_attempts()
        table.close()
    return merge(attempts, _read(directory.begun))  # the file last: it is written before a successor removes the table


def merge(attempts: dict[str, int], others: dict[str, int]) -> dict[str, int]:
    """Return the last attempts of each job."""
    return {job_id: max(attempts.get(job_id, 0), others.get(job_id, 0)) for job_id in attempts.keys() | others.keys()}


def look_back(directory: RunDir) -> StartedAttempts:
    """Return the attempts that were started, and keep them in the file."""
    attempts = read(directory)
    if attempts:
        _write(directory.begun, attempts)
    return StartedAttempts(directory, attempts)


def keep(directory: RunDir) -> None:
    """Look back where a store will want to know, before the directory is swept up."""
    with contextlib.suppress(OSError, ValueError):
        table = PostMortemTable(directory.table, loads=bytes)
        has_store = table.store() is not None
        table.close()
        if has_store and not directory.name.startswith(PRIVATE_PREFIX):
            look_back(directory)


def _read(path: str) -> dict[str, int]:
    return _read_own(path) or {}


def _read_own(path: str) -> dict[str, int] | None:
    """Return the attempts in a file; None if there is no file that was made here."""
    try:
        with open(path) as file:
            found = json.load(file)
        return {str(job_id): int(attempt) for job_id, attempt in found[_KEY].items()}
    except (OSError, ValueError, AttributeError, TypeError, LookupError):
        return None


def _write(path: str, attempts: dict[str, int]) -> None:
    if os.path.lexists(path) and _read_own(path) is None:
        raise ForeignFileError(f"{path} is a file that procjobs did not make: give the pool another name, or remove it")
    with private_files.replacing(path) as part, open(private_files.create(part, replace=True), "w") as file:
        json.dump({_KEY: attempts}, file)
