"""Objects of a database session among the arguments of a job: they cannot follow it into another process.

They would arrive without everything that they have not loaded, and changes to them would never reach the database. Most of
all they come from a request that has not committed yet.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from itertools import islice
from types import FunctionType
from typing import Any, Final

from procjobs import PayloadError

_STATE: Final = "_sa_instance_state"  # SQLAlchemy: InstanceState is found under this name in the __dict__ of mapped objects
_MAX_ITEMS: Final = 100


def refuse_session_objects(name: str, what: Any, args: tuple[Any, ...], params: dict[str, Any]) -> None:
    """Raise PayloadError if an argument of job `name`, an item of one, or a value bound to `what` is in a session."""
    orm = sys.modules.get("sqlalchemy.orm")
    if orm is None:  # then there are no such objects
        return
    for value in (*_items((*args, *params.values())), *_bound_to(what)):
        try:
            state = value.__dict__[_STATE] if orm.object_session(value) is not None else None
        except (AttributeError, KeyError, TypeError, orm.exc.UnmappedInstanceError):
            continue
        if state is not None:
            kind = type(value).__name__
            key = f" ({', '.join(map(repr, state.identity))})" if state.identity else ", which it gets from a flush"
            raise PayloadError(
                f"a {kind} of a database session is among the arguments of {name}, or bound to it, and cannot follow it "
                f"into the job; pass its primary key{key}, and load it there"
            )


def _items(values: tuple[Any, ...]) -> Iterator[Any]:
    """Yield the values, and after a container its first items; to look deeper would cost more than to pickle."""
    for value in values:
        yield value
        if isinstance(value, list | tuple | set | frozenset | dict):
            yield from islice(value.values() if isinstance(value, dict) else value, _MAX_ITEMS)


def _bound_to(what: Any) -> Iterator[Any]:
    """Yield the object of a method, the values that a function closes over, or the arguments of a partial."""
    if (owner := getattr(what, "__self__", None)) is not None:
        yield owner
    elif type(what) is FunctionType:
        for cell in what.__closure__ or ():
            with contextlib.suppress(ValueError):  # a variable without a value
                yield cell.cell_contents
    else:
        args, keywords = getattr(what, "args", ()), getattr(what, "keywords", {})
        if isinstance(args, tuple) and isinstance(keywords, dict):
            yield from (*args, *keywords.values())
