"""What a visitor may do: asked of the application for every request, and closed where it does not say."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from procjobs.errors import ConfigurationError
from procjobs.web.http import Problem

if TYPE_CHECKING:
    from procjobs.web.http import Request

Answer: TypeAlias = "str | Collection[str] | bool | None"
Authorize: TypeAlias = Callable[[Any], "Answer | Awaitable[Answer]"]
RIGHTS: Final[dict[str, frozenset[str]]] = {
    "read": frozenset({"read"}),
    "operate": frozenset({"read", "operate"}),
    "admin": frozenset({"read", "operate", "admin"}),
}
HOW_TO_OPEN: Final = (
    "Nobody has said who may come in here. Give the application an `authorize`: "
    'procjobs.web.app(pool, authorize=lambda request: "operate" if ... else None). '
    "`procjobs web` serves the same pages to you alone."
)


@dataclass(frozen=True)
class Visitor:
    """Who asks, as far as it matters: the rights, of "read", "operate", "admin" and the names of single actions."""

    rights: frozenset[str] = frozenset()

    def may(self, right: str, action: str | None = None) -> bool:
        """Whether the visitor has a right, or that to this one action, such as "cancel"."""
        return right == "public" or right in self.rights or (action is not None and action in self.rights)


NOBODY: Final = Visitor()


class Permission:
    """Asks `authorize`, and understands what it answers."""

    def __init__(self, authorize: Authorize | None, *, read_only: bool, actions: Collection[str] = ()) -> None:
        """`actions` are those that an answer of `authorize` may name."""
        self._authorize = authorize
        self._names = {*RIGHTS, *actions}
        self._read_only = read_only

    def ask(self, request: Request) -> Visitor:
        """Return what a visitor may do; raise Problem 403 if nothing. May block: the application's code runs."""
        if self._authorize is None:
            raise Problem(403, "Closed", HOW_TO_OPEN)
        authorize = getattr(self._authorize, "authorize_request", None)
        answer: Any = self._authorize(request.theirs) if authorize is None else authorize(request)
        rights = understand(request.wait(answer) if inspect.isawaitable(answer) else answer, self._names)
        if not rights:
            raise Problem(403, "Not allowed", "You may not see this page. Log in, or ask for the right to.")
        return Visitor(rights & RIGHTS["read"] if self._read_only else rights)


def understand(answer: Any, names: Collection[str]) -> frozenset[str]:
    """Return the rights that an `authorize` has answered with; raise ConfigurationError for anything odd.

    A text is one of "read", "operate", "admin", each of which includes those before it; a set names rights and actions one
    by one, of `names`, and always includes "read"; None, False and an empty set are no rights. True is refused, since it
    does not say which.
    """
    if answer is None or answer is False:
        return frozenset()
    if isinstance(answer, str) and answer in RIGHTS:
        return RIGHTS[answer]
    if isinstance(answer, set | frozenset | list | tuple) and all(one in names for one in answer):
        named = frozenset(answer)
        return named | RIGHTS["read"] if named else named
    raise ConfigurationError(
        f'authorize answered {answer!r}: expected None, "read", "operate", "admin", or a set of {", ".join(sorted(names))}'
    )


def is_async(function: Any) -> bool:
    """Whether calling something gives an awaitable, as far as its definition tells."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def refuse_async(function: Any, name: str) -> None:
    """Raise ConfigurationError for a callable that has to be awaited, where nothing can await it."""
    if is_async(function):
        raise ConfigurationError(f"{name} is asynchronous, and WSGI has no event loop to await it: give a plain function")
