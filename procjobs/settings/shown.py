"""How settings are shown to people: their values nearly as a settings file has them, without passwords."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, fields
from typing import TYPE_CHECKING, Any, Final

from procjobs.settings.keys import SETTINGS
from procjobs.shared.config import ClientSettings
from procjobs.shared.fact_records import SettingInfo
from procjobs.shared.passwords import hide
from procjobs.shared.queues import Queue
from procjobs.shared.sizes import size_text

if TYPE_CHECKING:
    from procjobs.shared.config import PoolSettings

_BY_STARTER: Final = "the process that started the pool"
_IN_WORDS: Final = {"argument": f"argument of {_BY_STARTER}"}


def show(setting: str, value: Any) -> str:
    """Return a value nearly as it is written in a settings file.

    >>> show("workers", (2, 8)), show("store", "postgresql://me:secret@db/x"), show("timeout", None), show("start", True)
    ('2-8', 'postgresql://me:***@db/x', 'none', 'true')
    """
    if value is None:
        return "none"
    if setting == "workers" and isinstance(value, tuple):
        return f"{value[0]}-{value[1]}"
    if SETTINGS[setting].is_size:
        return size_text(value)
    if isinstance(value, tuple | list | Mapping):
        parts = [f"{name} ({_show_queue(value[name])})" if isinstance(value, Mapping) else str(name) for name in value]
        return ", ".join(parts) or "-"
    return hide(value) if isinstance(value, str) else _show_scalar(value)


def _show_scalar(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _show_queue(queue: Queue) -> str:
    """Return the limits of a queue that are not the usual ones.

    >>> _show_queue(Queue(limit=2, rate="100/m"))
    'limit 2, rate 100/m'
    """
    names = [field.name for field in fields(queue)]
    limits = zip(names, astuple(queue), astuple(Queue()), strict=True)
    return ", ".join(f"{name} {value or 'none'}" for name, value, usual in limits if value != usual) or "no limit"


def describe_running(running: PoolSettings, workers: tuple[int, int] | None) -> list[SettingInfo]:
    """Return the settings of a running pool, in their order; `workers` are the bounds that hold now, if they are known."""
    values = running.flat()
    return [
        _describe_workers(running, workers) if name == "workers" else SettingInfo(
            name, show(name, values[name]), _source(running, name)
        )
        for name, setting in SETTINGS.items()
        if setting.owner is not ClientSettings
    ]  # fmt: skip


def _describe_workers(running: PoolSettings, now: tuple[int, int] | None) -> SettingInfo:
    is_changed = now is not None and now != tuple(running.workers)
    least, most = now if now is not None else running.workers
    value = str(least) if least == most else f"{least}-{most}"
    return SettingInfo("workers", value, "resized while the pool ran" if is_changed else _source(running, "workers"))


def _source(running: PoolSettings, name: str) -> str:
    """Return where a value comes from; a supervisor of an earlier release does not know the place, but its kind."""
    kind = running.origins.get(name, "default")
    known = running.sources.get(name) or _IN_WORDS.get(kind)
    return known or ("default" if kind == "default" else f"{kind} of {_BY_STARTER}")
