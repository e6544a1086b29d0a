"""The attempts that workers of a killed supervisor had started: in a file until the store has counted them.

The table of that supervisor tells them, and goes with the next supervisor, or with one of another pool that sweeps up. Until
the recorder has reached the database, which may be away, that next one may be killed as well.
"""

from __future__ import annotations

import contextlib
import json
import os

from procjobs.host.rundir import PRIVATE_PREFIX, RunDir
from procjobs.shared.table.post_mortem import PostMortemTable


class StartedAttempts:
    """The attempts by job id, as text."""

    def __init__(self, directory: RunDir, attempts: dict[str, int]) -> None:
        self.attempts = attempts
        self._path = directory.begun

    def forget(self) -> None:
        """Drop them and the file: the store has counted them."""
        self.attempts = {}
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def look_back(directory: RunDir) -> StartedAttempts:
    """Return the attempts that were started, and keep them in the file; none where there is no readable table."""
    attempts = _read(directory.begun)
    with contextlib.suppress(OSError, ValueError):
        table = PostMortemTable(directory.table, loads=bytes)
        for job_id, attempt in table.begun_attempts().items():
            attempts[job_id] = max(attempt, attempts.get(job_id, 0))
        table.close()
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
    try:
        with open(path) as file:
            found = json.load(file)
        return {str(job_id): int(attempt) for job_id, attempt in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(path: str, attempts: dict[str, int]) -> None:
    with open(f"{path}.new", "w") as file:
        json.dump(attempts, file)
    os.replace(f"{path}.new", path)
