"""Which member of a value cannot be pickled, and what to do instead. It is looked for only after pickling has failed."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

from procjobs.clock import monotonic
from procjobs.errors import JobTimeout

_MAX_SECONDS: Final = 1.0
_MAX_DEPTH: Final = 12
_MAX_ITEMS: Final = 200
_MAX_LETTERS: Final = 80

_WEB: Final = (
    "aiohttp.", "bottle", "django.", "falcon.", "fastapi.", "flask.", "litestar.", "pyramid.", "quart.", "sanic.",
    "starlette.", "tg.", "tornado.", "webob.", "werkzeug.",
)  # fmt: skip
_REQUEST: Final = "pass the parts of the request that the job needs, such as its form, its path or the id of its user"
_IN_JOB: Final = "make it in the job, or at the top level of a module, where each process has its own"
_MANAGED: Final = "pass one of a multiprocessing.Manager(), such as Manager().Queue()"
_DATABASE: Final = "connect in the job, with procjobs.sql.session() or by hand: docs/sql.md"
_OPEN: Final = "pass its path, and open it in the job"
_REMEDIES: Final = (
    ("procjobs.client.job.Job", "pass job.id, and ask the pool for it in the job: procjobs.Pool(...).job(id)"),
    ("concurrent.futures._base.Future", "wait for it here, and pass its result"),
    ("_contextvars.", "put it into a module, which goes by name, or pass its value"),
    ("contextvars.", "put it into a module, which goes by name, or pass its value"),
    ("_thread.", _IN_JOB),
    ("threading.", _IN_JOB),
    ("builtins.generator", "pass list(...) of it, or make it in the job"),
    ("builtins.coroutine", "pass the coroutine function and its arguments: the job awaits it"),
    ("builtins.async_generator", "make it in the job"),
    ("_io.", _OPEN),
    ("tempfile.", _OPEN),
    ("mmap.", "pass the path of its file, or a multiprocessing.shared_memory.SharedMemory"),
    ("socket.", "pass the address, and connect in the job"),
    ("ssl.", "pass the address, and connect in the job"),
    ("sqlite3.", _DATABASE),
    ("sqlalchemy.", _DATABASE),
    ("psycopg", _DATABASE),
    ("pymysql.", _DATABASE),
    ("MySQLdb.", _DATABASE),
    ("asyncpg.", _DATABASE),
    ("aiosqlite.", _DATABASE),
    ("django.db.backends.", _DATABASE),
    ("redis.", "connect in the job"),
    ("werkzeug.local.", _REQUEST),
    ("multiprocessing.managers.", "pass its proxies, such as manager.Queue(), not the manager itself"),
    ("multiprocessing.pool.", _IN_JOB),
    ("multiprocessing.process.", _IN_JOB),
    ("multiprocessing.context.", _IN_JOB),
    ("multiprocessing.connection.", "pass it as an argument of the job: its result cannot have it"),
    ("multiprocessing.", _MANAGED),
    ("concurrent.futures.", _IN_JOB),
    ("subprocess.", "start the program in the job"),
    ("weakref.", "pass the object itself"),
    ("asyncio.", "it belongs to an event loop: make it in the job"),
)
"""By the beginning of the full name of a type or one of its bases; the first that fits."""


def remedy_for(value: Any) -> str | None:
    """Return what to do instead of passing this value, None if nothing is known about its type."""
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(value).__mro__[:-1]]
    if "procjobs.client.submitter.Submitter" in names:
        return _remedy_for_pool(value)
    if is_request(type(value)):
        return _REQUEST
    return next((remedy for beginning, remedy in _REMEDIES for name in names if name.startswith(beginning)), None)


def is_request(kind: type) -> bool:
    """Return whether a type is that of the requests of a web framework, or one derived from it."""
    return any(base.__module__.startswith(_WEB) and base.__name__.endswith("Request") for base in kind.__mro__)


def _remedy_for_pool(pool: Any) -> str:
    name = pool._producer.link.name  # noqa: SLF001 - for its message alone
    if name is None:
        return "a private pool belongs to the process that made it: give it a name, and make procjobs.Pool(name) in the job"
    return f"make procjobs.Pool({name!r}) in the job"


def explain(value: Any, root: str, error: Exception, dump: Callable[[Any], object]) -> str:
    """Return why a value cannot be pickled: the member that cannot, and a remedy where one is known.

    `root` is the value in a path to a member; `dump` raises for what cannot be pickled, for `value` it raised `error`.
    Blocks for about a second at the most, or as long as it takes to pickle one member.
    """
    path, member, own = _find(value, root, error, dump)
    name = f"{type(member).__module__}.{type(member).__qualname__}".removeprefix("builtins.")
    text = str(own) if member is value else f"{path} is a {name}: {own}"
    remedy = remedy_for(member)
    return f"{text}. Remedy: {remedy}" if remedy else text


def _find(
    value: Any, root: str, error: Exception, dump: Callable[[Any], object]
) -> tuple[str, Any, Exception]:
    """Return the path to the innermost member that cannot be pickled, the member, and its error."""
    deadline = monotonic() + _MAX_SECONDS
    path = root
    on_way = {id(value)}
    for _ in range(_MAX_DEPTH):
        inner = None if remedy_for(value) else _first_failing(value, path, dump, deadline, on_way)
        if inner is None:
            break
        path, value, error = inner
        on_way.add(id(value))
    return path, value, error


def _first_failing(
    value: Any, path: str, dump: Callable[[Any], object], deadline: float, on_way: set[int]
) -> tuple[str, Any, Exception] | None:
    for inner_path, member in islice(_members(value, path), _MAX_ITEMS):
        if monotonic() > deadline:
            return None
        if id(member) in on_way:
            continue
        try:
            dump(member)
        except JobTimeout:
            raise
        except Exception as error:  # noqa: BLE001 - it is reported
            return inner_path, member, error
    return None


def _members(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a value, each with its path."""
    if isinstance(value, dict):
        for key, item in list(value.items()):
            yield f"{path}[{_short(key)}]", item
            yield f"the key {_short(key)} of {path}", key
    elif isinstance(value, list | tuple):
        yield from ((f"{path}[{n}]", item) for n, item in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from ((f"an item of {path}", item) for item in value)
    elif isinstance(value, types.MethodType):
        yield f"{path}.__self__", value.__self__
    elif isinstance(value, types.FunctionType):
        yield from _members_of_function(value, path)
    elif isinstance(value, functools.partial):
        yield f"{path}.func", value.func
        yield from _members(value.args, f"{path}.args")
        yield from _members(value.keywords, f"{path}.keywords")
    if isinstance(value, type):
        yield from ((f"{path}.{name}", item) for name, item in list(vars(value).items()) if not name.startswith("__"))
    else:
        yield from _attributes(value, path)
        yield f"the class {type(value).__name__}", type(value)


def _members_of_function(function: types.FunctionType, path: str) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"the variable {name} of {path}", cell.cell_contents
        except ValueError:  # it has no value yet
            continue
    for name in _global_names(function.__code__):
        if name in function.__globals__:
            yield f"the global {name} of {path}", function.__globals__[name]
    yield from ((f"a default of {path}", default) for default in function.__defaults__ or ())
    yield from ((f"the default of {name} of {path}", default) for name, default in (function.__kwdefaults__ or {}).items())


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _attributes(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    try:
        own = dict(vars(value))
    except TypeError:
        own = {}
    slots = [name for kind in type(value).__mro__ for name in _slots_of(kind)]
    for name in slots:
        try:
            own[name] = object.__getattribute__(value, name)
        except AttributeError:
            continue
    yield from ((f"{path}.{name}", item) for name, item in own.items())


def _slots_of(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _short(key: object) -> str:
    text = repr(key)
    return text if len(text) <= _MAX_LETTERS else f"{text[:_MAX_LETTERS]}..."
