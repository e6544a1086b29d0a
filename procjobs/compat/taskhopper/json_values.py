"""Values that JSON carries without a change, and the column `task_args`.

    {"args": ["cat.jpg"], "kwargs": {"width": 256}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from procjobs.compat.taskhopper.errors import ArgumentsNotJSON


def check_json(value: Any, place: str) -> None:
    """Raise ArgumentsNotJSON, with the place, unless JSON carries the value. A tuple counts as a list."""
    try:
        _check(value, place)
    except RecursionError:
        raise ArgumentsNotJSON(f"{place} is nested too deeply for JSON, or contains itself") from None


def _check(value: Any, place: str) -> None:
    if value is None or isinstance(value, str | int):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ArgumentsNotJSON(f"{place} is {value!r}, a number that JSON does not have")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check(item, f"{place}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ArgumentsNotJSON(f"{place} has the key {key!r}; the keys of JSON are texts")
            _check(item, f"{place}[{key!r}]")
    else:
        raise ArgumentsNotJSON(f"{place} is of type {type(value).__name__}, which JSON does not have")


def pack_arguments(name: str, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments of a task as they are stored; raise ArgumentsNotJSON if JSON does not carry them."""
    if not isinstance(args, list | tuple):
        raise ArgumentsNotJSON(f"task {name!r}: args={args!r} is of type {type(args).__name__}: expected a list or a tuple")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise ArgumentsNotJSON(f"task {name!r}: kwargs={kwargs!r} is of type {type(kwargs).__name__}: expected a dict")
    packed = {"args": list(args), "kwargs": dict(kwargs or {})}
    for part, values in packed.items():
        check_json(values, f"task {name!r}: {part}")
    return packed


def unpack_arguments(name: str, stored: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a row; one that was written by hand may have a list alone, or none."""
    if stored is None:
        return [], {}
    if isinstance(stored, list):
        return stored, {}
    if isinstance(stored, dict) and stored.keys() <= {"args", "kwargs"}:
        args, kwargs = stored.get("args") or [], stored.get("kwargs") or {}
        if isinstance(args, list) and isinstance(kwargs, dict):
            return args, kwargs
    raise ArgumentsNotJSON(
        f'task {name!r}: the row has task_args={stored!r:.200}; expected a list, or {{"args": [...], "kwargs": {{...}}}}'
    )
