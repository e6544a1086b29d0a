"""Deferred calls as bytes.

They are a pickle of (callable, args, kwargs), as in the original. What the C pickler can do goes by name: such a call finds
its function in the code of the process that runs it. Lambdas, functions inside functions, and what `__main__` defines go by
value, in a second pickle with the version of Python beside it: bytecode of another version could crash the process.
"""

from __future__ import annotations

import asyncio
import inspect
import pickle
import sys
from collections.abc import Callable
from typing import Any, Final

from procjobs.compat import pickling
from procjobs.compat.taskqueue.deferred.errors import PermanentTaskFailure, UnloadableCallError

__all__ = ["invoke_member", "run", "serialize"]

_VERSION: Final = tuple(sys.version_info[:2])
_MALFORMED: Final = (pickle.UnpicklingError, EOFError)
"""Bytes that no code could unpickle."""


def serialize(obj: Callable[..., Any], /, *args: Any, **kwargs: Any) -> bytes:
    """Return the bytes of `obj(*args, **kwargs)`, for `run`.

    Raise ValueError for an object that cannot be called, pickle.PicklingError if some part of the call cannot be pickled.
    """
    if not callable(obj):
        raise ValueError(f"{obj!r} cannot be deferred: it cannot be called")  # noqa: TRY004 - as the original has it
    call = (obj, args, kwargs)
    try:
        data = pickle.dumps(call, 5)
    except Exception:  # noqa: BLE001 - the reason is told where the other pickler cannot do it either
        data = b""
    if data and b"__main__" not in data:
        return data
    try:
        by_value = pickling.dump_callable(call)
    except Exception as error:
        name = getattr(obj, "__qualname__", type(obj).__name__)
        raise pickle.PicklingError(f"the deferred call of {name} cannot be pickled: {error}") from error
    return pickle.dumps((_run_by_value, (_VERSION, by_value), {}), 5)


def run(data: bytes) -> Any:
    """Make the call that `serialize` has made bytes of, and return its result; a coroutine is run to its end.

    This runs code that the author of the bytes has chosen: give it those of the queue only. Raise UnloadableCallError if
    the code of this process cannot do the call, PermanentTaskFailure if the bytes are no call, and what the call raises.
    """
    try:
        function, args, kwargs = _load(data)
    except (TypeError, ValueError) as error:
        raise PermanentTaskFailure(f"this is no deferred call: {error}") from error
    result = function(*args, **kwargs)
    return asyncio.run(_finish(result)) if inspect.isawaitable(result) else result


def _load(data: bytes) -> Any:
    try:
        return pickling.load(data)
    except _MALFORMED as error:
        raise PermanentTaskFailure(f"this is no deferred call: {error}") from error
    except Exception as error:
        raise UnloadableCallError(f"{type(error).__name__}: {error}") from error


async def _finish(result: Any) -> Any:
    return await result


def _run_by_value(version: tuple[int, int], data: bytes) -> Any:
    if version != _VERSION:
        made, here = (".".join(map(str, pair)) for pair in (version, _VERSION))
        raise UnloadableCallError(
            f"Python {made} has sent the function as bytecode, as lambdas and functions of __main__ are, and this is Python "
            f"{here}"
        )
    return run(data)


def invoke_member(obj: Any, membername: str, *args: Any, **kwargs: Any) -> Any:
    """Return what the method of this name of an object returns."""
    return getattr(obj, membername)(*args, **kwargs)
