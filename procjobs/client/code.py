"""Which code the jobs of this process run: workers of clients with equal keys are forked from the same template.

A client describes its code when it says hello. The specification tells a template how to load it; the key is equal
for two processes if, and only if, they may share workers.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from procjobs.client.launcher import interpreter
from procjobs.errors import ConfigurationError, PayloadError
from procjobs.host import payload

if TYPE_CHECKING:
    from procjobs.sql.configuration import Database

_MAX_KEY: Final = 8192


class Code(NamedTuple):
    """The key and the specification of a client's code; the latter is sent as JSON."""

    key: str
    spec: dict[str, Any]


def describe_code(
    preload: Sequence[str],
    initializer: Callable[..., Any] | None,
    initargs: tuple[Any, ...],
    version: str | None,
    database: Database | None = None,
) -> Code:
    """Return the code that this process's jobs run.

    Raise PayloadError if the initializer or the database's function cannot be pickled, and ConfigurationError if the
    database cannot be used in another process.
    """
    spec: dict[str, Any] = {
        **_search_path(),
        "preload": list(preload),
        "initializer": _dump_initializer(initializer, initargs),
    }
    if database is not None:
        spec["database"] = _dump_database(database)
    marked = {**spec, "executable": interpreter(), "version": _fingerprint(preload) if version is None else version}
    return Code(_shorten(json.dumps(marked)), spec)


def _search_path() -> dict[str, Any]:
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        cwd = "/"
    return {"sys_path": [os.path.abspath(entry) if entry else cwd for entry in sys.path], "cwd": cwd}


def _shorten(text: str) -> str:
    """Return the text itself, or a digest of a long one. To load hashlib takes longer than to connect."""
    if len(text) <= _MAX_KEY:
        return text
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


# What runs before the first job -----------------------------------------------------------------------------------


def _dump_initializer(initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]) -> str | None:
    if initializer is None:
        return None
    if not callable(initializer):
        raise TypeError("initializer must be a callable")
    try:
        return base64.b64encode(payload.dump_inline((initializer, tuple(initargs)))).decode()
    except Exception as error:
        raise PayloadError(f"the initializer or its arguments cannot be pickled: {error}") from error


def _dump_database(database: Database) -> str:
    from procjobs.sql.configuration import check_portable, configure_worker  # with SQLAlchemy: 150 ms

    try:
        return base64.b64encode(payload.dump_inline((configure_worker, (check_portable(database),)))).decode()
    except ConfigurationError:
        raise
    except Exception as error:
        raise PayloadError(f"the function given as database cannot be pickled: {error}") from error


# The state of the files -------------------------------------------------------------------------------------------


def _fingerprint(modules: Sequence[str]) -> str:
    """Return text that changes when the files of these modules' top-level packages change.

    Nothing is imported. For an installed package (in site-packages) its own entry and directory stand for all its files.
    """
    import importlib.machinery

    lines = []
    for top in sorted({name.partition(".")[0] for name in modules}):
        with contextlib.suppress(ImportError):
            spec = importlib.machinery.PathFinder.find_spec(top)
            if spec is not None:
                lines += _describe_files(spec.origin, list(spec.submodule_search_locations or ()))
    return "\n".join(lines)


def _describe_files(origin: str | None, folders: list[str]) -> list[str]:
    lines = [_stamp(origin)] if origin else []
    for folder in folders:
        if "site-packages" in folder or "dist-packages" in folder:
            lines.append(_stamp(folder))
            continue
        for root, below, files in os.walk(folder):
            below[:] = sorted(name for name in below if name != "__pycache__")
            lines += [_stamp(f"{root}/{name}") for name in sorted(files) if name.endswith((".py", ".so"))]
    return lines


def _stamp(path: str) -> str:
    try:
        info = os.stat(path)
    except OSError:
        return path
    return f"{path} {info.st_mtime_ns} {info.st_size}"
