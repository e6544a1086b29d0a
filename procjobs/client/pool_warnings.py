"""What a process is told, in warnings, of the pool that it attaches to."""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, Final

from procjobs.errors import CodeDiffers, PoolDegraded
from procjobs.shared.config import PoolSettings
from procjobs.shared.passwords import hide

if TYPE_CHECKING:
    from collections.abc import Mapping

    from procjobs.client.connection.connection import OnNotice
    from procjobs.settings.plan import Plan

_PACKAGE: Final = os.path.dirname(os.path.dirname(__file__)) + os.sep


def describe_differences(plan: Plan, running: Mapping[str, Any]) -> str:
    """Return which settings that were given here are not those of the running pool; empty text if there are none."""
    there = PoolSettings.from_json(running)
    different = there.differences(plan.asked_of(there))
    text = ", ".join(
        f"{n}={_show(theirs)} ({_here(plan, n)}{_show(asked)})" for n, (theirs, asked) in different.items()
    )
    return text and f"pool {plan.name!r} is running with other settings, which hold: {text}"


def _here(plan: Plan, setting: str) -> str:
    origin = plan.origin(setting)
    return "here " if origin.kind == "argument" else f"by {origin.where} "


def _show(value: object) -> str:
    return repr(hide(value) if isinstance(value, str) else value)


def warn_about(label: str) -> OnNotice:
    """Return a function that warns of the news of a pool."""
    return lambda news: warn_of(label, news)


def warn_of(label: str, news: Mapping[str, Any]) -> None:
    """Warn of what the supervisor has told: a difference, a problem, a notice."""
    if difference := news.get("warning"):
        warn(f"{label}: {difference}", CodeDiffers)
    if problem := news.get("problem"):
        warn(f"{label} cannot run jobs at the moment: {problem}", PoolDegraded)
    if notice := news.get("notice"):
        warn(f"{label} is slower than it could be: {notice}", PoolDegraded)


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line of the application that has called this package."""
    level, frame = 2, sys._getframe(1)  # noqa: SLF001 - there is no other way before Python 3.12
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
