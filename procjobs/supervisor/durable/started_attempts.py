"""Which attempts the workers of a killed supervisor had begun: in a file until the store has counted them.

Its own table tells, and goes with the next supervisor, or with one of another pool that sweeps up. Until the recorder has
reached the database, which may be away, that next one may be killed as well.
"""

from __future__ import annotations

import contextlib
import json
import os

from procjobs.host.rundir import PRIVATE_PREFIX, RunDir
from procjobs.shared.table.post_mortem import PostMortemTable


def look_back(directory: RunDir) -> dict[str, int]:
    """Return the attempts by job id, and keep them; none where there is no readable table."""
    begun = _read(directory.begun)
    with contextlib.suppress(OSError, ValueError):
        table = PostMortemTable(directory.table, loads=bytes)
        for job_id, attempt in table.begun_attempts().items():
            begun[job_id] = max(attempt, begun.get(job_id, 0))
        table.close()
    if begun:
        _write(directory.begun, begun)
    return begun


def keep(directory: RunDir) -> None:
    """Look back where a store will want to know, before the directory is swept up."""
    with contextlib.suppress(OSError, ValueError):
        table = PostMortemTable(directory.table, loads=bytes)
        has_store = table.store() is not None
        table.close()
        if has_store and not directory.name.startswith(PRIVATE_PREFIX):
            look_back(directory)


def forget(directory: RunDir) -> None:
    """Drop the file: the store has counted what is in it."""
    with contextlib.suppress(OSError):
        os.unlink(directory.begun)


def _read(path: str) -> dict[str, int]:
    try:
        with open(path) as file:
            found = json.load(file)
        return {str(job_id): int(attempt) for job_id, attempt in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(path: str, begun: dict[str, int]) -> None:
    with open(f"{path}.new", "w") as file:
        json.dump(begun, file)
    os.replace(f"{path}.new", path)
