"""The wrappers around jobs: context managers that every job of this process runs inside of, the outermost first.

Without them a job pays nothing for their absence. procjobs.sql is one: it makes each job a transaction. Those that are
entered with `async with` are around coroutines only, within the job's event loop, and inside of all others.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from typing import Any, Final, TypeVar

from procjobs.errors import ConfigurationError
from procjobs.shared.coroutines import is_coroutine_function
from procjobs.worker.context import JobContext
from procjobs.worker.exceptions import OWN_FILES

T = TypeVar("T")

Wrapper = Callable[[JobContext], AbstractContextManager[Any, bool | None]]
AsyncWrapper = Callable[[JobContext], AbstractAsyncContextManager[Any, bool | None]]

around_jobs: tuple[Wrapper, ...] = ()
around_coroutines: tuple[AsyncWrapper, ...] = ()

OWN_FILES.update({__file__, contextlib.__file__})


def add_wrapper(wrapper: Wrapper | AsyncWrapper) -> None:
    """Run every job of this process inside `with wrapper(job):`, within the wrappers that were added before.

    For integrations: call it in a module that is preloaded, or in an initializer; applications give `Pool(wrappers=...)`.
    `job` is what `current_job()` returns. A wrapper whose context manager is asynchronous is entered with `async with`,
    around coroutines only. One that has been added already stays where it is. Raise ConfigurationError if it cannot be one.
    """
    _add(wrapper, outermost=False)


def add_outermost(*wrappers: Wrapper | AsyncWrapper) -> None:
    """Do the same, outside of all others."""
    for wrapper in wrappers:
        _add(wrapper, outermost=True)


def remove_wrapper(wrapper: Wrapper | AsyncWrapper) -> None:
    """Run no more jobs inside of it."""
    global around_jobs, around_coroutines
    around_jobs = tuple(other for other in around_jobs if other != wrapper)
    around_coroutines = tuple(other for other in around_coroutines if other != wrapper)


def _add(wrapper: Any, *, outermost: bool) -> None:
    global around_jobs, around_coroutines
    if wrapper in around_jobs or wrapper in around_coroutines:
        return
    _check(wrapper)
    if _is_asynchronous(wrapper):
        around_coroutines = (wrapper, *around_coroutines) if outermost else (*around_coroutines, wrapper)
    else:
        around_jobs = (wrapper, *around_jobs) if outermost else (*around_jobs, wrapper)


def _check(wrapper: Any) -> None:
    remedy = "decorate it with contextlib.contextmanager or asynccontextmanager"
    if not callable(wrapper):
        raise ConfigurationError(f"wrapper {wrapper!r}: expected a function of one argument that returns a context manager")
    if is_coroutine_function(wrapper) or inspect.isgeneratorfunction(wrapper) or inspect.isasyncgenfunction(wrapper):
        raise ConfigurationError(f"wrapper {_name(wrapper)} does not return a context manager: {remedy}")


def _is_asynchronous(wrapper: Any) -> bool:
    while isinstance(wrapper, partial):
        wrapper = wrapper.func
    if isinstance(wrapper, type):
        return hasattr(wrapper, "__aenter__") and not hasattr(wrapper, "__enter__")
    return inspect.isasyncgenfunction(inspect.unwrap(wrapper))


def call_within(job: JobContext, function: Callable[[], T]) -> T | None:
    """Call a function within the wrappers around jobs; return None if one of them has swallowed an exception."""
    return _call_within(around_jobs, job, function)


def _call_within(wrappers: tuple[Wrapper, ...], job: JobContext, function: Callable[[], T]) -> T | None:
    if not wrappers:
        return function()
    with _made_by(wrappers[0], job):
        return _call_within(wrappers[1:], job, function)
    return None


def _made_by(wrapper: Wrapper, job: JobContext) -> AbstractContextManager[Any, bool]:
    manager: Any = wrapper(job)
    if not hasattr(manager, "__enter__"):
        raise TypeError(
            f"wrapper {_name(wrapper)} returned {type(manager).__name__}, which is no context manager; an asynchronous one "
            "is made with contextlib.asynccontextmanager, or is a class"
        )
    return manager  # type: ignore[no-any-return]


# Of a pool --------------------------------------------------------------------------------------------------------

_SEPARATOR: Final = ":"


def find_wrapper(name: str) -> Any:
    """Return the wrapper `module:name`; raise what its import raises, or AttributeError."""
    module, _, path = name.partition(_SEPARATOR)
    found: Any = importlib.import_module(module)
    for attribute in path.split("."):
        found = getattr(found, attribute)
    return found


def _name(wrapper: Any) -> str:
    return f"{getattr(wrapper, '__module__', '?')}:{getattr(wrapper, '__qualname__', repr(wrapper))}"
