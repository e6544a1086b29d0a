"""Messages about misspelt names: the name that was probably meant, and all names that there are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
S = TypeVar("S")


def suggest(unknown: Iterable[str], known: Iterable[str]) -> str:
    """Return the end of a message about unknown names: each with the name that was probably meant, and all known names."""
    import difflib

    known = sorted(known)
    hints = []
    for name in unknown:
        close = difflib.get_close_matches(name, known, 1)
        hints.append(f" {name!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))
    return ",".join(hints) + f"; there are: {', '.join(known)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a question for the names that are near an unknown one, upper and lower case alike; empty if there is none."""
    import difflib

    folded = {other.casefold(): other for other in sorted(known)}
    close = [folded[key] for key in difflib.get_close_matches(name.casefold(), folded, 3)]
    return f"did you mean {' or '.join(map(repr, close))}?" if close else ""


def suggesting(
    label: str, explain: Callable[[str], str | None] = lambda _name: None
) -> Callable[[Callable[Concatenate[S, P], None]], Callable[Concatenate[S, P], None]]:
    """Return a decorator for `__init__`, which raises TypeError for an unknown keyword with the one that was probably meant.

    `explain` may have better words for a name than `label` and a list.
    """

    def decorate(init: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
        code: Any = getattr(init, "__code__")  # noqa: B009 - a Callable has none for the type checker
        known = frozenset(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])

        @functools.wraps(init)
        def checked(self: S, /, *args: P.args, **given: P.kwargs) -> None:
            if not given.keys() <= known:
                first = min(given.keys() - known)
                raise TypeError(explain(first) or f"{label}{suggest([first], known)}")
            init(self, *args, **given)

        return checked

    return decorate
