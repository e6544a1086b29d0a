"""The checkpoints of jobs: for each job that has one, a file beside the table with what it has handed over last, pickled.

The worker writes it, whole or not at all. The supervisor removes it when nobody can go on from there any more.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from procjobs.shared import private_files

MAX_BYTES: Final = 2**20
"""The most bytes of a checkpoint."""


def path_of(directory: str, job_id: bytes) -> str:
    """Return the path of a job's checkpoint."""
    return f"{directory}/checkpoint-{job_id.hex()}"


def save(directory: str, job_id: bytes, data: bytes) -> None:
    """Keep a checkpoint in the place of the one before, which stays where there is no room: OSError then."""
    with private_files.replacing(path_of(directory, job_id)) as part:
        _write(part, data)


def _write(path: str, data: bytes) -> None:
    """Write a new file, with as few calls of the kernel as can be: jobs may do this often."""
    try:
        fd = private_files.create(path)
    except FileExistsError:  # of an attempt that was killed in the act
        fd = private_files.create(path, replace=True)
    try:
        while data := data[os.write(fd, data) :]:
            pass
    finally:
        os.close(fd)


def load(directory: str, job_id: bytes) -> bytes | None:
    """Return the last checkpoint of a job, None if there is none."""
    try:
        with open(path_of(directory, job_id), "rb") as file:
            return file.read(MAX_BYTES)
    except OSError:
        return None


def try_copy(directory: str, job_id: bytes, other_id: bytes) -> bool:
    """Give a job the checkpoint of another one; return False if there is none. A checkpoint is never written to again."""
    with contextlib.suppress(OSError):
        os.link(path_of(directory, other_id), path_of(directory, job_id))
        return True
    return False


def drop(directory: str, job_id: bytes) -> None:
    """Remove the checkpoint of a job."""
    path = path_of(directory, job_id)
    for name in (path, f"{path}.new"):
        with contextlib.suppress(OSError):
            os.unlink(name)
