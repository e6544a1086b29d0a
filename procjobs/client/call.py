"""Calls as objects, to be submitted together."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeAlias, TypeVar, overload

from procjobs.errors import ConfigurationError

if TYPE_CHECKING:
    from procjobs.client.connection.submission import Call as Triple
    from procjobs.client.connection.submission import Terms

P = ParamSpec("P")
T = TypeVar("T")


class Call(Generic[T]):
    """A call for `Pool.submit_many`: `Call(render, 3, dpi=300)`, and with options of its own `.options(priority=5)`."""

    __slots__ = ("_args", "_changes", "_fn", "_kwargs")

    @overload
    def __init__(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> None: ...

    @overload
    def __init__(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> None: ...

    def __init__(self, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        if not callable(fn):
            raise TypeError(f"{fn!r} cannot be called; Call() takes a function and its arguments")
        self._fn: Callable[..., Any] = fn
        self._args, self._kwargs = args, kwargs
        self._changes: dict[str, Any] = {}

    def options(self, **changes: Any) -> Call[T]:
        """Return the same call with other options, as in `Pool.options`; they come before those of the pool's `options`."""
        other: Call[T] = Call(self._fn, *self._args, **self._kwargs)
        other._changes = {**self._changes, **changes}
        return other

    def __repr__(self) -> str:
        return f"<Call {getattr(self._fn, '__qualname__', self._fn)}>"

    def resolve(self, terms: Terms) -> tuple[Triple, Terms]:
        """Return the call, and the terms on which it is submitted through an object with these terms."""
        return (self._fn, self._args, self._kwargs), terms.but(self._changes) if self._changes else terms


AnyCall: TypeAlias = "Call[T] | tuple[Any, ...]"
_NO_KEYWORDS: Final[dict[str, Any]] = {}


def resolve(call: AnyCall[Any], terms: Terms) -> tuple[Triple, Terms]:
    """Return a call with its terms; raise TypeError or ConfigurationError if it is none."""
    if isinstance(call, tuple) and call and callable(call[0]):
        resolved = (call[0], call[1:], _NO_KEYWORDS), terms
    elif isinstance(call, Call):
        resolved = call.resolve(terms)
    else:
        raise TypeError(
            f"{call!r:.200} is no call: expected procjobs.Call(function, ...) or a tuple (function, argument, ...)"
        )
    if resolved[1].unique is not None:
        raise ConfigurationError(
            "unique= is nothing for submit_many: if another job has the key, this one would be none, and the others would "
            "be some. Submit it by itself"
        )
    return resolved
