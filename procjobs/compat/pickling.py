"""Pickling of any callable with its arguments: functions inside functions, lambdas, bound methods.

cloudpickle copies the globals that such a function reads. An engine, a lock or a registry does not survive that, and
nobody would see the changes that the function makes to them. Here a function finds its globals in its module, as the
process that runs it imports it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import pickle
import sys
import types
from typing import Any

import cloudpickle

from procjobs import PayloadError


def dump(what: str, value: Any) -> bytes:
    """Pickle a value; raise PayloadError, `what` naming it, if that cannot be done."""
    try:
        return dump_callable(value)
    except Exception as error:
        raise PayloadError(f"{what} cannot be sent to a worker, which is another process: {error}") from error


def dump_callable(value: Any) -> bytes:
    """Pickle a value; raise whatever its own pickling raises."""
    sink = io.BytesIO()
    _Pickler(sink, 5).dump(value)
    return sink.getvalue()


def load(data: bytes) -> Any:
    """Unpickle a value."""
    return pickle.loads(data)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, value: Any) -> Any:
        if type(value) is memoryview and value.contiguous:
            return _make_memoryview, (pickle.PickleBuffer(value), value.format, value.shape)
        if type(value) is not types.FunctionType or _is_importable(value) or not _is_in_its_module(value):
            return super().reducer_override(value)
        parts = (value.__code__, value.__module__, value.__name__)
        state = {
            "__closure__": value.__closure__ or (), "__defaults__": value.__defaults__, "__dict__": value.__dict__,
            "__kwdefaults__": value.__kwdefaults__, "__qualname__": value.__qualname__,
        }  # fmt: skip
        return _make_function, parts, state, None, None, _fill_function


def _is_importable(function: types.FunctionType) -> bool:
    """Return whether the function is found by its module and qualified name, and so is pickled by name."""
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function


def _is_in_its_module(function: types.FunctionType) -> bool:
    module = sys.modules.get(function.__module__)
    importable = module is not None and module.__name__ != "__main__" and getattr(module, "__spec__", None) is not None
    return importable and function.__globals__ is module.__dict__


def _make_function(code: types.CodeType, module: str, name: str) -> types.FunctionType:
    closure = tuple(types.CellType() for _ in code.co_freevars)  # filled later: a function may close over itself
    return types.FunctionType(code, vars(importlib.import_module(module)), name, None, closure)


def _fill_function(function: types.FunctionType, state: dict[str, Any]) -> None:
    for own, cell in zip(function.__closure__ or (), state.pop("__closure__"), strict=True):
        with contextlib.suppress(ValueError):  # a variable without a value
            own.cell_contents = cell.cell_contents
    function.__dict__.update(state.pop("__dict__"))
    for name, value in state.items():
        setattr(function, name, value)


def _make_memoryview(buffer: Any, code: Any, shape: tuple[int, ...]) -> memoryview:
    flat = memoryview(buffer).cast("B")
    return flat.cast(code, shape) if len(shape) != 1 else flat.cast(code)
