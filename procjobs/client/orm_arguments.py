"""Database objects among the arguments of a call: those that belong to a session must not leave its process.

They would be pickled in their present state, without the attributes that are not loaded yet, and changes that the job makes
to them would have no effect on the database. Above all, they come from a request that has not committed yet.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from types import CellType, FunctionType
from typing import Any, Final, NoReturn

from procjobs.errors import PayloadError
from procjobs.shared.function_names import function_name

ORM: Final = "sqlalchemy.orm"
"""Where this module is not loaded, there are no such objects."""
_STATE: Final = "_sa_instance_state"  # SQLAlchemy: InstanceState is found under this name in the __dict__ of mapped objects
_MAX_ITEMS: Final = 100
_CONTAINERS: Final = (list, tuple, set, frozenset, dict)
_PLAIN: Final = frozenset({int, float, str, bytes, bool, type(None)})


def refuse(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise PayloadError if an object of a session is an argument, an item of one, or bound to the function.

    Containers inside containers are not searched: that would take longer than to pickle the call.
    """
    for value in (*args, *kwargs.values()) if kwargs else args:
        if type(value) in _PLAIN:
            continue
        if _is_attached(value) or (isinstance(value, _CONTAINERS) and _has_attached(value)):
            _complain(fn, args, kwargs)
    if (type(fn) is not FunctionType or fn.__closure__) and _has_attached(_bound_to(fn)):
        _complain(fn, args, kwargs)


def _is_attached(value: Any) -> bool:
    if type(value) in _PLAIN:
        return False
    try:
        return _STATE in value.__dict__ and sys.modules[ORM].object_session(value) is not None
    except (AttributeError, TypeError):
        return False


def _has_attached(values: Iterable[Any] | dict[Any, Any]) -> bool:
    return any(map(_is_attached, islice(_items(values), _MAX_ITEMS)))


def _items(values: Any) -> Iterator[Any]:
    return iter(values.values() if isinstance(values, dict) else values)


def _bound_to(fn: Any) -> tuple[Any, ...]:
    """Return the object of a method, the variables of a closure, or the arguments of a partial."""
    owner = getattr(fn, "__self__", None)
    if owner is not None:
        return (owner,)
    if type(fn) is FunctionType:
        return tuple(_values_of(fn.__closure__)) if fn.__closure__ else ()
    args, kwargs = getattr(fn, "args", ()), getattr(fn, "keywords", {})
    return (*args, *kwargs.values()) if isinstance(args, tuple) and isinstance(kwargs, dict) else ()


def _values_of(cells: Iterable[CellType]) -> Iterator[Any]:
    for cell in cells:
        with contextlib.suppress(ValueError):  # a variable without a value
            yield cell.cell_contents


def _complain(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
    named: list[tuple[str, Any]] = [(f"argument {number}", value) for number, value in enumerate(args)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    named += [("what is bound to it", value) for value in _bound_to(fn)]
    for what, value in named:
        found = value
        if not _is_attached(value) and isinstance(value, _CONTAINERS):
            found = next(filter(_is_attached, islice(_items(value), _MAX_ITEMS)), None)
            what = f"an item of {what}"  # noqa: PLW2901
        if _is_attached(found):
            kind = type(found).__name__
            raise PayloadError(
                f"{what} of {function_name(fn)} is a {kind} of a database session, which cannot follow it into the job; "
                f"pass its primary key{_key_of(found)}, and load it there: procjobs.sql.session().get({kind}, key)"
            )
    raise AssertionError("the caller has seen an object of a session")


def _key_of(value: Any) -> str:
    identity = value.__dict__[_STATE].identity
    return f" ({', '.join(map(repr, identity))})" if identity else ", which it gets from a flush"
