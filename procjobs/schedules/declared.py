"""Schedules that an application's code declares: for `Pool(schedules=[...])`, and in modules of a pool's preload."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, ParamSpec, TypeVar

from procjobs.errors import ConfigurationError
from procjobs.schedules.schedule import Schedule, make_schedule
from procjobs.shared.config import JOB_OPTION_NAMES, JobOptions
from procjobs.shared.durations import Seconds
from procjobs.shared.function_names import OPTIONS_ATTRIBUTE
from procjobs.shared.job_keys import pack_key
from procjobs.shared.meta import pack_meta
from procjobs.shared.suggestions import suggest

P = ParamSpec("P")
T = TypeVar("T")

_REFUSED: Final = {
    "delay": "a schedule says itself when its jobs start; jitter= spreads them",
    "unique": 'overlap= says what happens while a job of the schedule has not ended: "skip", "queue", "allow" or "replace"',
}
_OTHERS: Final = ("key", "meta")


class ScheduledCall:
    """A call that a pool submits at certain times, for `Pool(schedules=[...])`; its arguments are those of `Pool.schedule`.

    >>> from procjobs import ScheduledCall
    >>> ScheduledCall("nightly", print, args=("good night",), every="1d")
    <ScheduledCall 'nightly' print, Every day>
    """

    __slots__ = ("args", "fn", "key", "kwargs", "meta", "options", "pool", "schedule")

    def __init__(
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        cron: str | None = None,
        every: Seconds | None = None,
        after: Seconds | None = None,
        at: datetime | None = None,
        tz: str | None = None,
        anchor: datetime | float | None = None,
        catch_up: str | None = None,
        overlap: str = "skip",
        jitter: Seconds = 0,
        expires: Seconds | None = None,
        pool: str | None = None,
        **options: Any,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"schedule {name!r}: {fn!r} cannot be called; give the function and, in args=, its arguments")
        self.schedule: Schedule = make_schedule(
            name, cron=cron, every=every, after=after, at=at, tz=tz, anchor=anchor, catch_up=catch_up, overlap=overlap,
            jitter=jitter, expires=expires,
        )  # fmt: skip
        self.fn = fn
        self.args, self.kwargs = tuple(args), dict(kwargs or {})
        self.pool = pool
        rest = {**getattr(fn, OPTIONS_ATTRIBUTE, {}), **options}
        try:
            self.key, self.meta = pack_key(rest.pop("key", None)), pack_meta(rest.pop("meta", None) or {})
            self.options = _check_options(rest)
        except ConfigurationError as error:
            raise ConfigurationError(f"schedule {name!r}: {error}") from None

    def __repr__(self) -> str:
        name = getattr(self.fn, "__qualname__", repr(self.fn))
        return f"<ScheduledCall {self.schedule.name!r} {name}, {self.schedule.rule.explain()}>"


def _check_options(options: dict[str, Any]) -> dict[str, Any]:
    for name, why in _REFUSED.items():
        if options.get(name) is not None:
            raise ConfigurationError(f"{name}= is nothing for a schedule: {why}")
    unknown = options.keys() - JOB_OPTION_NAMES
    if unknown:
        raise ConfigurationError(f"unknown option{suggest(sorted(unknown), JOB_OPTION_NAMES | {*_OTHERS})}")
    JobOptions().but(options)
    return options


DECLARED: Final[list[ScheduledCall]] = []
"""What the decorator has declared in this process, in order."""


def schedule(
    name: str,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    cron: str | None = None,
    every: Seconds | None = None,
    after: Seconds | None = None,
    at: datetime | None = None,
    tz: str | None = None,
    anchor: datetime | float | None = None,
    catch_up: str | None = None,
    overlap: str = "skip",
    jitter: Seconds = 0,
    expires: Seconds | None = None,
    pool: str | None = None,
    **options: Any,
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Declare a schedule of the function below; calling that still runs it here. Its arguments are those of `Pool.schedule`.

    Pools whose `preload` has the module run it, all of them or the one that is named by `pool`; so does
    `Pool(schedules=[function])`. The same name declared again takes the place of the former.

    >>> @schedule("sweep", every="5m", jitter=30)
    ... def sweep() -> str:
    ...     return "swept"
    >>> sweep()
    'swept'
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        call = ScheduledCall(
            name, function, args=args, kwargs=kwargs, cron=cron, every=every, after=after, at=at, tz=tz, anchor=anchor,
            catch_up=catch_up, overlap=overlap, jitter=jitter, expires=expires, pool=pool, **options,
        )  # fmt: skip
        DECLARED[:] = [other for other in DECLARED if (other.schedule.name, other.pool) != (name, pool)] + [call]
        return function

    return decorate


def resolve(given: object) -> list[ScheduledCall]:
    """Return the schedules that one entry of `Pool(schedules=...)` means; raise ConfigurationError if it means none."""
    if isinstance(given, ScheduledCall):
        return [given]
    found = [call for call in DECLARED if call.fn is given]
    if not found:
        raise ConfigurationError(
            f"schedules: {given!r:.200} is no schedule; expected procjobs.ScheduledCall(name, function, ...) or a function "
            "under @procjobs.schedule(...)"
        )
    return found
