"""Which code the jobs of this process run, and in which environment.

A client describes both when it says hello. The specification tells a template how to load the code. Two processes may share
workers if their keys are equal, and if the source files that both have seen (procjobs.host.source_files) were the same.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from procjobs.client.launcher import interpreter
from procjobs.errors import ConfigurationError, PayloadError
from procjobs.host import payload
from procjobs.host.source_files import SOURCES
from procjobs.shared import environment_variables

if TYPE_CHECKING:
    from procjobs.sql.configuration import Database

_MAX_KEY: Final = 8192


class Code(NamedTuple):
    """The key and the specification of a client's code; the latter is sent as JSON.

    With a `version` the user tells one deploy from another, and source files do not count. `counting` are the names and
    patterns that the user has added to the variables of the environment that count.
    """

    key: str
    spec: dict[str, Any]
    version: str | None = ""
    counting: tuple[str, ...] = ()

    def with_files(self) -> tuple[dict[str, Any], int | None]:
        """Return the specification with the source files seen until now, and how many entries of SOURCES those are.

        None where source files do not count.
        """
        if self.version is not None:
            return self.spec, None
        position = SOURCES.look(modules=self.spec["preload"], at_all=True)
        return {**self.spec, "files": SOURCES.since(0)}, position

    def renewed(self) -> Code:
        """Return the same code in the environment that this process has now, with the source files as they are now."""
        SOURCES.look_again()
        spec = {**self.spec, "environment": environment_variables.of_workers(os.environ)}
        return self._replace(key=_key(spec, self.version, self.counting), spec=spec)


def describe_code(
    preload: Sequence[str],
    initializer: Callable[..., Any] | None,
    initargs: tuple[Any, ...],
    version: str | None,
    database: Database | None = None,
    environment: Sequence[str] = (),
    *,
    finalizer: Callable[..., Any] | None = None,
    wrappers: Sequence[str | Callable[..., Any]] = (),
    schedules: str = "",
) -> Code:
    """Return the code that this process's jobs run; `environment` are further variables that count.

    `schedules` tells those of the settings file: a process with others has other code, so those that it lacks are retired.

    Raise PayloadError if the initializer, the finalizer, a wrapper or the database's function cannot be pickled, and
    ConfigurationError if the database cannot be used in another process.
    """
    spec: dict[str, Any] = {
        **_search_path(),
        "preload": list(preload),
        "initializer": _dump_call("initializer", initializer, initargs),
        "finalizer": _dump_call("finalizer", finalizer, ()),
        "wrappers": [_dump_wrapper(wrapper) for wrapper in wrappers],
        "flags": interpreter_flags(),
        "environment": environment_variables.of_workers(os.environ),
    }
    if database is not None:
        spec["database"] = _dump_database(database)
    if schedules:
        spec["schedules_digest"] = schedules
    return Code(_key(spec, version, environment), spec, version, tuple(environment))


def _key(spec: Mapping[str, Any], version: str | None, counting: Sequence[str]) -> str:
    """Return text that is equal for two clients that may share workers, as long as their source files are the same."""
    variables = environment_variables.counting(spec["environment"], counting)
    text = json.dumps({**spec, "environment": variables, "executable": interpreter(), "version": version})
    if len(text) <= _MAX_KEY:
        return text
    import hashlib  # here, because to load it takes longer than to connect

    return hashlib.sha256(text.encode()).hexdigest()


def _search_path() -> dict[str, Any]:
    """Return where modules are found. Links are followed: a deploy that turns `current` to a new release has other code."""
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        cwd = "/"
    return {"sys_path": [os.path.realpath(entry) if entry else cwd for entry in sys.path], "cwd": cwd}


_LETTERS: Final = {
    "debug": "d", "optimize": "O", "dont_write_bytecode": "B", "no_site": "S", "verbose": "v", "bytes_warning": "b",
    "quiet": "q", "isolated": "I", "ignore_environment": "E", "no_user_site": "s", "safe_path": "P",
}  # fmt: skip
_MADE_BY_FLAGS: Final = ("error::BytesWarning", "default::BytesWarning")


def interpreter_flags() -> list[str]:
    """Return the options of a command line that make an interpreter like this one: -O, -W, -X and others."""
    levels = {letter: int(getattr(sys.flags, name)) for name, letter in _LETTERS.items()}
    options = ["-" + letter * level for letter, level in levels.items() if level]
    for name, value in sys._xoptions.items():  # noqa: SLF001 - documented under this name
        options += ["-X", name if value is True else f"{name}={value}"]
    made = {*(_MADE_BY_FLAGS if sys.flags.bytes_warning else ()), *(("default",) if sys.flags.dev_mode else ())}
    return options + [f"-W{option}" for option in sys.warnoptions if option not in made]


# What runs before the first job -----------------------------------------------------------------------------------


def _dump_call(what: str, function: Callable[..., Any] | None, args: tuple[Any, ...]) -> str | None:
    if function is None:
        return None
    if not callable(function):
        raise TypeError(f"{what} must be a callable")
    try:
        return base64.b64encode(payload.dump_inline((function, tuple(args)))).decode()
    except Exception as error:
        raise PayloadError(f"the {what} or its arguments cannot be pickled: {error}") from error


def _dump_wrapper(wrapper: str | Callable[..., Any]) -> tuple[str, str]:
    """Return the name of a wrapper, or an empty one and base64 of the pickled function."""
    if isinstance(wrapper, str):
        return wrapper, ""
    try:
        return "", base64.b64encode(payload.dump_inline(wrapper)).decode()
    except Exception as error:
        raise PayloadError(f"the wrapper {wrapper!r} cannot be pickled: {error}") from error


def _dump_database(database: Database) -> str:
    from procjobs.sql.configuration import check_portable, configure_worker  # with SQLAlchemy: 150 ms

    try:
        return base64.b64encode(payload.dump_inline((configure_worker, (check_portable(database),)))).decode()
    except ConfigurationError:
        raise
    except Exception as error:
        raise PayloadError(f"the function given as database cannot be pickled: {error}") from error
