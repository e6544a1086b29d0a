"""Functions by their names, for schedules of a settings file: the process that declares them does not import them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from procjobs.errors import ConfigurationError


class NamedFunction:
    """The function "module:function". Its pickle is the bare name: the worker that loads it gets the function itself.

    >>> NamedFunction("math:factorial")(5)
    120
    """

    def __init__(self, target: str) -> None:
        """Raise ConfigurationError for text that names no function; nothing is imported."""
        module, _, path = target.partition(":")
        if not path or not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
            raise ConfigurationError(f'{target!r} is no "module:function", such as "app.jobs:make_report"')
        self.target = target
        self.__module__ = module
        self.__qualname__ = path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Import the function, and call it."""
        return find_function(self.target)(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        """Let the other side find the function."""
        return find_function, (self.target,)

    def __repr__(self) -> str:
        return f"<function {self.target}>"


def find_function(target: str) -> Callable[..., Any]:
    """Return the function "module:function", whose module is imported; raise ImportError if it is not there."""
    module, _, path = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ImportError(f"module {module!r} has no {path!r}, which a schedule of the settings file calls") from None
    if not callable(found):
        raise ImportError(f"{target} is no function, and a schedule of the settings file calls it")  # noqa: TRY004
    return found  # type: ignore[no-any-return]  # callable() does not tell mypy what it returns
