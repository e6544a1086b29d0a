"""Plans the measuring: the sizes, and the calls that are made in turn. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from procjobs.errors import ConfigurationError
from procjobs.shared.config import MAX_SLOTS, check_count

_MAX_JOBS: Final = 200
"""At every size each call is made once, up to this number of calls, unless the user asks for another number of jobs."""
_JOBS_PER_WORKER: Final = 3


class Call(NamedTuple):
    """The arguments of one call."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}


def check_calls(calls: Iterable[Call | Sequence[Any]]) -> list[Call]:
    """Return the calls, each given as a Call or as a sequence of positional arguments; raise ConfigurationError if empty."""
    checked: list[Call] = []
    for call in calls:
        if isinstance(call, str | bytes) or not isinstance(call, Sequence):
            raise ConfigurationError(
                f"calls: {call!r} is neither a Call nor a sequence of arguments; write ({call!r},)"
            )
        checked.append(call if isinstance(call, Call) else Call(tuple(call)))
    if not checked:
        raise ConfigurationError("calls is empty: give at least one call, [()] for a function without arguments")
    return checked


def default_sizes(cpus: int, most: int | None = None) -> list[int]:
    """Return the sizes to measure on a host with this many CPUs, up to `most` (default: twice the CPUs, and at least 4).

    They are 1, 2, 3, 4 and then grow in steps of about a third. The number of CPUs is always among them, because CPU-bound
    jobs have their knee there. Beyond it, jobs that wait for disks or the network may still gain.

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
    """Return the sizes in order, each once; raise ConfigurationError for an invalid size or an empty list."""
    checked = sorted({check_count("sizes", size, minimum=1, maximum=MAX_SLOTS) for size in sizes})
    if not checked:
        raise ConfigurationError("sizes is empty: give some sizes, such as [1, 2, 4]")
    return checked


def min_jobs(workers: int, calls: int, asked: int | None) -> int:
    """Return how many jobs have to end while a size is measured.

    There are three jobs for each worker, so that one job more or less does not matter. Each call is made once, because
    sizes that ran different calls cannot be compared; of a very long list of calls only a part is used.
    """
    return asked if asked is not None else max(_JOBS_PER_WORKER * workers, min(calls, _MAX_JOBS))
