"""The memory that the workers of a named pool took in earlier runs, kept on disk for the next start of that pool.

    $XDG_STATE_HOME/procjobs/NAME.json, without it ~/.local/state/procjobs/NAME.json (XDG Base Directory Specification)

    {"version": 1, "runs": [{"ended_at": Unix time, "workers": 12, "worker_bytes": ..., "shared_bytes": ...}, ...]}

The supervisor writes it when everything else of its pool has gone, from numbers that the kernel gave it with the exit
status of each worker: nothing is sampled. The next process that starts the pool reads it. It is advice: a file that cannot
be read or written is never an error. A supervisor that was killed writes nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import Any, Final

from procjobs.clock import wall
from procjobs.host.observe import WorkerPeaks
from procjobs.host.sizing import Footprint
from procjobs.shared import private_files
from procjobs.shared.state_directory import find_state_directory

MAX_RUNS: Final = 10
"""A job that once took very much is forgotten after this number of runs without one."""
_MAX_POOLS: Final = 100
_MAX_FILE_BYTES: Final = 65_536
_MAX_BYTES: Final = 2**50


def path_of(pool: str) -> str | None:
    """Return the file of a pool; None where this user has no directory for it."""
    directory = find_state_directory()
    return None if directory is None else f"{directory}/{pool}.json"


def recall(pool: str | None) -> Footprint:
    """Return the most that the workers of a pool took in its last runs; the usual guess if that is not known."""
    runs = [] if pool is None else _read_runs(path_of(pool))
    if not runs:
        return Footprint()
    return Footprint(max(r["worker_bytes"] for r in runs), max(r["shared_bytes"] for r in runs), len(runs))


def remember(pool: str, peaks: WorkerPeaks) -> None:
    """Add a run to the file of a pool, if any worker has run a job in it."""
    path = path_of(pool)
    if not peaks.workers or path is None:
        return
    run = {
        "ended_at": round(wall()),
        "workers": peaks.workers,
        "worker_bytes": peaks.worker_bytes,
        "shared_bytes": peaks.shared_bytes,
    }
    document = {"version": 1, "runs": [*_read_runs(path), run][-MAX_RUNS:]}
    with contextlib.suppress(OSError):
        private_files.make_directories(os.path.dirname(path))
        part = f"{path}.{os.getpid()}"
        with open(private_files.create(part, replace=True), "w") as file:
            json.dump(document, file)
        os.replace(part, path)  # readers see the old file or the new one
        _forget_oldest(os.path.dirname(path))


def _forget_oldest(folder: str) -> None:
    """Keep the files of the latest pools only: some programs invent a name for each run."""
    with os.scandir(folder) as entries:
        ages = sorted((entry.stat().st_mtime, entry.path) for entry in entries)
    for _, path in ages[:-_MAX_POOLS]:
        os.unlink(path)


def _read_runs(path: str | None) -> list[dict[str, int]]:
    if path is None:
        return []
    with contextlib.suppress(OSError, ValueError, RecursionError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                document = json.loads(file.read(_MAX_FILE_BYTES))
                if isinstance(document, dict) and isinstance(document.get("runs"), list):
                    return [run for run in document["runs"] if _is_run(run)][-MAX_RUNS:]
    return []


def _is_run(run: Any) -> bool:
    if not isinstance(run, dict):
        return False
    numbers = (run.get("worker_bytes"), run.get("shared_bytes"))
    return all(type(number) is int and 0 <= number <= _MAX_BYTES for number in numbers)
