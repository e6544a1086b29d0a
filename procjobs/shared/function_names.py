"""What is known of a function beside its code: the name of its jobs, and where its own options are."""

from __future__ import annotations

from typing import Any, Final

OPTIONS_ATTRIBUTE: Final = "__procjobs_options__"
"""Where the decorator `job` leaves a function's default options."""


def function_name(function: Any) -> str:
    """Return the name under which a job of this function is shown."""
    inner = getattr(function, "func", None)  # functools.partial
    if inner is not None and not hasattr(function, "__qualname__"):
        return function_name(inner)
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    module = getattr(function, "__module__", None) or type(function).__module__
    return name if module in {"__main__", None} else f"{module}.{name}"
