"""Which functions are coroutine functions, told without asyncio: a worker of ordinary ones never loads that."""

from __future__ import annotations

from functools import partial
from inspect import iscoroutinefunction
from typing import Any


def is_coroutine_function(function: Any) -> bool:
    """Return whether calling this only makes a coroutine: an `async def`, a method or partial of one, an async `__call__`.

    A function that returns an awaitable without saying so cannot be told before it is called, and is an ordinary one.
    """
    while isinstance(function, partial):
        function = function.func
    if iscoroutinefunction(function):
        return True
    return iscoroutinefunction(getattr(type(function), "__call__", None))  # noqa: B004 - what it is called by is looked at
