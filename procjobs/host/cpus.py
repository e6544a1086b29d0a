"""The CPUs that a worker runs on, and the number of threads that numeric libraries start in it.

`thread_variables`, `cpus_of_slot` and `check_usable` are functions of facts; the rest asks the kernel.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Final

from procjobs.errors import ConfigurationError

OPENMP: Final = "OMP_NUM_THREADS"
FOLLOW_OPENMP: Final = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""These libraries read these variables before OMP_NUM_THREADS. An OMP_NUM_THREADS set by hand is meant for them as well."""
ON_THEIR_OWN: Final = ("VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS")
"""For Accelerate, numba, and libraries in Rust (tokenizers, polars). oneTBB reads no variable, it goes by affinity."""


def thread_variables(
    threads: int | str | None, *, workers: int, cpus: int, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables that tell numeric libraries how many threads to start.

    They read them once, when they are loaded. A number overrides the environment. "auto" is one worker's share of the CPUs,
    for the variables that the environment does not set. None leaves everything alone.

    >>> thread_variables("auto", workers=4, cpus=8, environment={"OMP_NUM_THREADS": "8"})["RAYON_NUM_THREADS"]
    '2'
    """
    if threads is None:
        return {}
    names = [OPENMP, *FOLLOW_OPENMP, *ON_THEIR_OWN]
    if isinstance(threads, int):
        return dict.fromkeys(names, str(threads))
    if environment.get(OPENMP):
        names = [*ON_THEIR_OWN]
    return {name: str(max(1, cpus // workers)) for name in names if not environment.get(name)}


def cpus_of_slot(slot: int, affinity: str | Sequence[int] | None, *, workers: int, usable: Sequence[int]) -> list[int]:
    """Return the CPUs of the worker in a slot; an empty list means all.

    With "spread" each of the workers has its share of the usable CPUs, neighbours in their numbering; where there are more
    workers than CPUs, each has one. Of CPUs given by number, those are returned that are usable now. After a change of the
    control group that may be none of them, and a worker on any CPU is better than no worker.

    >>> [cpus_of_slot(slot, "spread", workers=3, usable=range(8)) for slot in range(3)]
    [[0, 1], [2, 3, 4], [5, 6, 7]]
    """
    if affinity is None:
        return []
    if not isinstance(affinity, str):
        return [cpu for cpu in affinity if cpu in usable]
    count, place = len(usable), slot % workers
    if workers >= count:
        return [usable[place % count]]
    return list(usable[place * count // workers : (place + 1) * count // workers])


def check_usable(affinity: str | Sequence[int] | None, usable: Sequence[int]) -> None:
    """Raise ConfigurationError if this process, and so its children, cannot use one of the CPUs."""
    if affinity is None or isinstance(affinity, str):
        return
    missing = [cpu for cpu in affinity if cpu not in usable]
    if missing:
        raise ConfigurationError(
            f"affinity={list(affinity)!r}: this process may not use CPU {', '.join(map(str, missing))}; "
            f"it may use {', '.join(map(str, usable))}"
        )


def usable_cpu_numbers() -> list[int]:
    """Return the numbers of the CPUs that the scheduler may use for the calling thread and its children."""
    try:
        return sorted(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # macOS has no such call, a seccomp filter may refuse it
        return list(range(os.cpu_count() or 1))


def pin(cpus: Sequence[int], pid: int = 0) -> None:
    """Let a process run on these CPUs only: each of its threads, since threads inherit them only at their start.

    Does nothing if the process has gone, or if a control group has just taken the last of these CPUs away.
    """
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid or 'self'}/task"):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(thread), cpus)
