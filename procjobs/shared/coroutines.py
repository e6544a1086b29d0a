"""Telling coroutine functions from ordinary ones, without asyncio: a worker of ordinary ones never loads that."""

from __future__ import annotations

from functools import partial
from inspect import iscoroutinefunction
from typing import Any


def is_coroutine_function(function: Any) -> bool:
    """Return whether a call only makes a coroutine: of an `async def`, a method or partial of one, an async `__call__`.

    A function that returns an awaitable without being declared so counts as ordinary: only a call would tell.
    """
    while isinstance(function, partial):
        function = function.func
    if iscoroutinefunction(function):
        return True
    return iscoroutinefunction(getattr(type(function), "__call__", None))  # noqa: B004 - this looks at the method, not whether there is one
