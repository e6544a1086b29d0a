"""Which CPUs a worker runs on, and how many threads the numeric libraries in it start.

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
"""What these libraries read before OMP_NUM_THREADS: where that was set by hand, it is meant for them as well."""
ON_THEIR_OWN: Final = ("VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS")
"""Accelerate, numba, and what is written in Rust (tokenizers, polars). oneTBB reads no variable, it goes by affinity."""


def thread_variables(
    threads: int | str | None, *, workers: int, cpus: int, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables by which numeric libraries learn how many threads to start.

    They read them once, when they are loaded. A number holds whatever the environment says; "auto" leaves alone what is
    set there, and is the share of one of so many workers in the CPUs; None leaves everything alone.

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
    """Return the CPUs of the worker in a slot, none where it may use all.

    With "spread" each of so many workers has its share of the usable CPUs, neighbours in their numbering, and where there
    are more workers than CPUs one of them. Of CPUs that were given by number, those that are usable now: if none is, since
    a control group has changed, that is better than no worker.

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
    """Raise ConfigurationError if one of the CPUs cannot be used by this process and so by none that it starts."""
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
    """Let a process run on these CPUs only: all of its threads, which inherit them from each other only at their start.

    Does nothing where it has gone, or where a control group has taken the last of these CPUs away in this moment.
    """
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid or 'self'}/task"):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(thread), cpus)
