"""What pickle alone would get wrong between processes that do not know each other.

1. Functions and classes of `__main__` and of modules that only this process has go by value. Their code keeps the name of
   its file, so that a traceback in another process points to the line.
2. Handles of `multiprocessing` go as handles. In a plain pickle the end of a pipe is a bare number, and shared memory is
   removed by the first process that has merely looked at it.
3. An open file is refused: a copy of its content, which is what cloudpickle sends, is not the file.

Each reducer returns what `object.__reduce__` returns, or NotImplemented where the value goes as usual.
"""

from __future__ import annotations

import functools
import io
import os
import pickle
import sys
import types
from collections import ChainMap
from collections.abc import Set as AbstractSet
from contextvars import Context, ContextVar
from typing import Any, Final

import cloudpickle

from procjobs.host.culprit import is_request

NOTHING: Final[AbstractSet[str]] = frozenset()
_ERASED: Final = "<dynamic-code>"  # cloudpickle puts it in the place of the name of a code object's file
_WITH_HANDLES: Final = ("multiprocessing.", "socket")
_context_vars: dict[str, ContextVar[Any]] = {}
"""The context variables that were sent or have arrived, by a key that goes along: a job's functions are to share them."""
_CACHED: Final = type(functools.lru_cache(len))


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle with the differences above, and memoryviews without a copy.

    `by_value` are the names of the modules that only this process has. With `lends_handles` this process lives on to hand
    over the handles in the pickle, once each; without, they are refused.
    """

    def __init__(
        self, sink: Any, buffer_callback: Any, by_value: AbstractSet[str] = NOTHING, *, lends_handles: bool = False
    ) -> None:
        super().__init__(sink, 5, buffer_callback=buffer_callback)
        self._by_value = by_value
        self._lends_handles = lends_handles

    def reducer_override(self, value: Any) -> Any:
        """Return how a value is pickled, NotImplemented where it is pickled as usual; for all but the plainest types."""
        kind = type(value)
        reduced = NotImplemented
        if kind is types.FunctionType or issubclass(kind, type | types.ModuleType):
            reduced = self._reduce_definition(kind, value)
        elif kind is memoryview:
            if value.contiguous:
                return _as_memoryview, (pickle.PickleBuffer(value), value.format, value.shape)
        elif kind is _CACHED:
            reduced = self._reduce_cached(value)
        elif kind.__module__.startswith(_WITH_HANDLES):
            reduced = self._reduce_handle(value)
        elif is_request(kind) or kind.__module__ == "werkzeug.local":
            raise TypeError("a request belongs to the web worker that serves it")
        return super().reducer_override(value) if reduced is NotImplemented else reduced

    def _reduce_definition(self, kind: type, value: Any) -> Any:
        """Reduce a function, class or module that goes by value."""
        if issubclass(kind, types.ModuleType):
            if value.__name__ not in self._by_value:
                return NotImplemented
            return _reduce_module(value)
        if value.__module__ not in self._by_value:
            return NotImplemented
        if kind is types.FunctionType:
            return self._dynamic_function_reduce(value)
        return cloudpickle.cloudpickle._dynamic_class_reduce(value)  # noqa: SLF001 - no public name does it

    def _reduce_cached(self, value: Any) -> Any:
        """Reduce a function of `functools.lru_cache`. By value, it begins with an empty cache in the other process."""
        if is_importable(value, self._by_value):
            return NotImplemented
        parameters = value.cache_parameters()
        return _cache, (value.__wrapped__, parameters["maxsize"], parameters["typed"]), _state_of_cached(value)

    def _reduce_handle(self, value: Any) -> Any:
        _refuse_foreign_proxy(value)
        shared = _reduce_shared_memory(value)
        if shared is not None:
            return shared
        reducer = _handle_reducer(type(value))
        if reducer is None:
            return NotImplemented
        if not self._lends_handles:
            raise pickle.PicklingError(f"a {type(value).__name__} cannot leave the process of a job, which may end any time")
        return reducer(value)


def _reduce_module(module: types.ModuleType) -> Any:
    """Reduce a module by its file, with the packages that it is in; one without a file by its contents."""
    name, files = module.__name__, []
    while name:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None or not os.path.isfile(file):
            return cloudpickle.cloudpickle.dynamic_subimport, (module.__name__, _content_of(module))
        places = getattr(sys.modules[name], "__path__", None)
        files.append((name, os.path.abspath(file), None if places is None else [os.path.abspath(place) for place in places]))
        name = name.rpartition(".")[0]
    return load_modules, (files[::-1],)


def _reduce_code(code: types.CodeType) -> Any:
    constructor, arguments = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    name = code.co_filename
    if not name.startswith("<") and os.path.isfile(name):
        name = os.path.abspath(name)
    return constructor, tuple(name if part == _ERASED else part for part in arguments)


def _reduce_file(file: io.TextIOWrapper) -> Any:
    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        if file is getattr(sys, name):
            return getattr, (sys, name)
    raise TypeError(f"cannot pickle an open file ({file.name!r})")


def _reduce_context_var(variable: ContextVar[Any]) -> Any:
    """Reduce a context variable of a module that goes by value: the other process makes one with the same default.

    As everywhere, the value of a context stays in it. Without a default, the job would find nothing at all.
    """
    try:
        default = Context().run(variable.get)
    except LookupError:
        raise TypeError(f"cannot pickle the context variable {variable.name!r}, which has no default") from None
    key = next((key for key, known in _context_vars.items() if known is variable), None)
    if key is None:
        key = f"{os.getpid()}-{len(_context_vars)}-{variable.name}-{os.urandom(8).hex()}"
        _context_vars[key] = variable
    return _context_var, (key, variable.name, default)


def _reduce_cached_property(value: Any) -> Any:
    """Reduce a cached_property. In Python 3.11 it has a lock, which is of one process."""
    return _cached_property, (type(value), value.func, value.attrname)


Pickler.dispatch_table = ChainMap(
    {
        types.CodeType: _reduce_code,
        io.TextIOWrapper: _reduce_file,
        functools.cached_property: _reduce_cached_property,
        ContextVar: _reduce_context_var,
    },
    cloudpickle.Pickler.dispatch_table,
)


# Handles ----------------------------------------------------------------------------------------------------------


def _handle_reducer(kind: type) -> Any:
    """Return how multiprocessing sends a handle of this type, None for anything else.

    Its reducer serves the handle in a thread of this process, to the one process that knows its authkey and asks first.
    """
    if (kind.__module__, kind.__name__) in {("multiprocessing.connection", "Connection"), ("socket", "socket")}:
        from multiprocessing.reduction import ForkingPickler

        return ForkingPickler._extra_reducers.get(kind)  # type: ignore[attr-defined] # noqa: SLF001 - no public name
    return None


def _refuse_foreign_proxy(value: Any) -> None:
    """Refuse a proxy whose manager would turn the job away: jobs have the key of the process that has submitted them."""
    managers = sys.modules.get("multiprocessing.managers")
    if managers is not None and isinstance(value, managers.BaseProxy):
        from multiprocessing import process

        if value._authkey != process.current_process().authkey:  # noqa: SLF001 - no public name
            raise TypeError(
                "its manager has an authkey of its own, which jobs do not have: set "
                "multiprocessing.current_process().authkey to that key before the first submit"
            )


def _reduce_shared_memory(value: Any) -> Any:
    module = sys.modules.get("multiprocessing.shared_memory")
    if module is None:
        return None
    if type(value) is module.SharedMemory:
        return attach_shared_memory, (value.name,)
    if type(value) is module.ShareableList:
        return attach_shareable_list, (value.shm.name,)
    return None


def attach_shared_memory(name: str) -> Any:
    """Return the shared memory of this name; the process that made it removes it, and no other."""
    from multiprocessing.shared_memory import SharedMemory

    if sys.version_info >= (3, 13):
        return SharedMemory(name, track=False)
    return _untracked(SharedMemory(name))


def attach_shareable_list(name: str) -> Any:
    """Return the ShareableList in the shared memory of this name; removed as `attach_shared_memory` says."""
    from multiprocessing.shared_memory import ShareableList

    shared: Any = ShareableList(name=name)
    _untracked(shared.shm)
    return shared


def _untracked(memory: Any) -> Any:
    from multiprocessing import resource_tracker

    resource_tracker.unregister(memory._name, "shared_memory")  # noqa: SLF001 - as SharedMemory registers it
    return memory


# What the receiver calls ------------------------------------------------------------------------------------------


def load_modules(files: list[tuple[str, str, list[str] | None]]) -> types.ModuleType:
    """Return the last of these modules, loaded as far as they are not. Each is a name, a file, the places of a package."""
    import importlib.util

    for name, file, places in files:
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=places)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
    return sys.modules[files[-1][0]]


def _as_memoryview(buffer: Any, code: Any, shape: tuple[int, ...]) -> memoryview:
    flat = memoryview(buffer).cast("B")
    shaped: memoryview = flat.cast(code, shape) if len(shape) != 1 else flat.cast(code)
    return shaped


def _cache(function: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def _context_var(key: str, name: str, default: Any) -> ContextVar[Any]:
    return _context_vars.get(key) or _context_vars.setdefault(key, ContextVar(name, default=default))


def _cached_property(kind: type, function: Any, name: str | None) -> Any:
    made = kind(function)
    made.attrname = name
    return made


# By name or by value ----------------------------------------------------------------------------------------------


def is_importable(function: Any, by_value: AbstractSet[str] = NOTHING) -> bool:
    """Return whether a function or class is found by its module and qualified name, and is pickled by name."""
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", "")
    if module is None or module == "__main__" or module in by_value or "<" in name or module not in sys.modules:
        return False
    if cloudpickle.list_registry_pickle_by_value():
        return False
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is function


def _content_of(module: types.ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in {"__builtins__", "__spec__", "__loader__"}}


def _state_of_cached(value: Any) -> dict[str, Any] | None:
    made = (*functools.WRAPPER_ASSIGNMENTS, "__wrapped__", "cache_parameters")
    return {name: own for name, own in vars(value).items() if name not in made} or None
