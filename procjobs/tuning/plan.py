"""What is to be measured: the sizes, and the calls that are made in turn. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from procjobs.errors import ConfigurationError
from procjobs.shared.config import MAX_SLOTS, check_count

_MAX_JOBS: Final = 200
"""So many calls are made once each at every size, unless another number is asked for."""
_JOBS_PER_WORKER: Final = 3


class Call(NamedTuple):
    """The arguments of one call."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}


def check_calls(calls: Iterable[Call | Sequence[Any]]) -> list[Call]:
    """Return calls, of which each was given as one or as its positional arguments; raise ConfigurationError if none is."""
    checked: list[Call] = []
    for call in calls:
        if isinstance(call, str | bytes) or not isinstance(call, Sequence):
            raise ConfigurationError(
                f"calls: {call!r} is neither a Call nor a sequence of arguments; write ({call!r},)"
            )
        checked.append(call if isinstance(call, Call) else Call(tuple(call)))
    if not checked:
        raise ConfigurationError("calls: there is none; give at least one, [()] for a function without arguments")
    return checked


def default_sizes(cpus: int, most: int | None = None) -> list[int]:
    """Return the sizes that tell most about a host with so many CPUs, up to `most` (twice the CPUs, and at least 4).

    They are 1, 2, 3, 4 and from there in steps of about a third, with the number of CPUs among them: CPU-bound jobs have
    their knee there. Beyond it, jobs that wait for disks or the network may still gain.

    >>> default_sizes(2), default_sizes(10), default_sizes(8, most=5)
    ([1, 2, 3, 4], [1, 2, 3, 4, 6, 8, 10, 12, 16, 20], [1, 2, 3, 4, 5])
    """
    largest = min(max(2 * cpus, 4) if most is None else most, MAX_SLOTS)
    sizes = {1, largest, *([cpus] if cpus <= largest else [])}
    power = 1
    while power <= largest:
        sizes |= {size for size in (power, power * 3 // 2) if size <= largest}
        power *= 2
    return sorted(sizes)


def check_sizes(sizes: Iterable[int]) -> list[int]:
    """Return sizes in order, each once; raise ConfigurationError for what is none."""
    checked = sorted({check_count("sizes", size, minimum=1, maximum=MAX_SLOTS) for size in sizes})
    if not checked:
        raise ConfigurationError("sizes: there is none; give some, such as [1, 2, 4]")
    return checked


def min_jobs(workers: int, calls: int, asked: int | None) -> int:
    """Return how many jobs have to end while a size is measured.

    Three for each worker, so that a job more or less does not matter; and each call once, since sizes that have done
    different calls cannot be compared. Of very many calls a part has to do.
    """
    return asked if asked is not None else max(_JOBS_PER_WORKER * workers, min(calls, _MAX_JOBS))
