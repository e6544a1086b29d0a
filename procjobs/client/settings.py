"""From what `Pool(...)` is given to what a supervisor and its templates are started with."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

from procjobs.client import launcher
from procjobs.config import MAX_SLOTS, NICE, Workers, check_count, check_workers
from procjobs.errors import ConfigurationError, PayloadError
from procjobs.host import hostinfo, payload, sizing


def choose_workers(workers: Workers, max_workers: int | None) -> Workers:
    """Return the number of workers that was asked for, by either name."""
    if max_workers is None:
        return check_workers(workers)
    if workers != "auto":
        raise ConfigurationError("workers and max_workers contradict each other: give one of them")
    return check_workers(check_count("max_workers", max_workers, minimum=1, maximum=MAX_SLOTS))


def resolve_workers(workers: Workers) -> tuple[int, int]:
    """Return (least, most)."""
    if workers == "auto":
        count = sizing.choose_size(hostinfo.read_cpu_facts(), hostinfo.read_memory_facts(), nice=NICE).workers
        return count, count
    return (workers, workers) if isinstance(workers, int) else workers


def describe_code(
    preload: Sequence[str], initializer: Callable[..., Any] | None, initargs: tuple[Any, ...], version: str | None
) -> tuple[str, dict[str, Any]]:
    """Return (key, specification) of the code that this process's jobs run; see `launcher.describe_generation`."""
    return launcher.describe_generation(
        preload=_check_preload(preload), initializer=_dump_initializer(initializer, initargs), version=version
    )


def _check_preload(preload: Sequence[str]) -> Sequence[str]:
    if isinstance(preload, str) or not all(isinstance(name, str) for name in preload):
        raise ConfigurationError(f"preload={preload!r}: expected names of modules, such as ['numpy', 'myapp.jobs']")
    return preload


def _dump_initializer(initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]) -> str | None:
    if initializer is None:
        return None
    if not callable(initializer):
        raise TypeError("initializer must be a callable")
    try:
        return base64.b64encode(payload.dump_inline((initializer, tuple(initargs)))).decode()
    except Exception as error:
        raise PayloadError(f"the initializer or its arguments cannot be pickled: {error}") from error
