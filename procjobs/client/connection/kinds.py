"""The functions that were described to the supervisor, so that each is pickled and sent once per connection.

A function goes by name if it can be imported by name. One that goes by value (a lambda, a closure, a function of
`__main__`) can change between two calls: the variables it closes over, the globals it reads. It is sent once only as
long as all of these are plain and compare equal; else its pickle travels with each call.
"""

from __future__ import annotations

import json
import types
from dataclasses import asdict
from typing import Any, Final, NamedTuple

from procjobs.client.connection.caller import Caller
from procjobs.client.connection.interruptible import came_from_outside
from procjobs.clock import NEVER
from procjobs.errors import PayloadError
from procjobs.host import payload, pickler
from procjobs.host.source_files import SOURCES
from procjobs.shared import wire
from procjobs.shared.config import JobOptions
from procjobs.shared.function_names import OPTIONS_ATTRIBUTE, function_name
from procjobs.shared.wire import Frame

MAX_KINDS: Final = 4096
_MAX_BYTES: Final = 8 * 2**20
"""Beyond this number of kinds, or these bytes of their descriptions, a connection begins anew. The supervisor and its
workers keep them as well."""
_FILES_OF_A_FRAME: Final = 50  # a path has at most 4,096 bytes
_PLAIN: Final = frozenset({int, float, str, bytes, bool, type(None), complex})
_DEPTH: Final = 4


class Kind(NamedTuple):
    """A kind as the supervisor knows it; `carries_function` says that each payload brings its own function.

    `description` is the body of its KIND frame without the number, which is this connection's; `name` that of its jobs.
    """

    number: int
    carries_function: bool
    description: bytes
    name: str


class KindRegistry:
    """The kinds of one connection. Not for several threads at once: the sender's lock guards it.

    `by_identity` has (function, options, kind) under the identities of the former two, which cannot be taken over by others
    as long as the entry holds them; it is read without the lock. The supervisor still has the kinds from the number
    `first_valid` on: another thread may have made it forget those before. Between `begin` and `end` none is valid: a thread
    that is interrupted there leaves it so, and the next one begins anew.
    """

    def __init__(self, caller: Caller, files_sent: int | None = None) -> None:
        """`files_sent` is how many entries of SOURCES the supervisor knows, None where source files do not count."""
        self.caller = caller
        self._told: dict[str, Any] | None = {}  # None: it is not known what the supervisor has been told
        self.by_identity: dict[tuple[int, int], tuple[Any, JobOptions, Kind]] = {}
        self._by_value: dict[Any, Kind] = {}
        self._functions: dict[int, Any] = {}
        self._count = self._bytes = 0
        self.first_valid: float = 1
        self._first_sent = 1
        self._forget_first = False
        self._files_sent = self._files_seen = files_sent

    def begin(self) -> None:
        """Note that a kind is about to be entered and sent."""
        if self.first_valid == NEVER:
            self.forget()
        self.first_valid = NEVER

    def end(self) -> None:
        """Note that it was sent."""
        self.first_valid = self._first_sent
        self._files_sent = self._files_seen

    def look_at_files(self, function: Any) -> bytes:
        """Return frames that tell of source files loaded since the last look, to be sent before `function` is described."""
        if self._files_sent is None:
            return b""
        self._files_seen = SOURCES.look(function)
        if self._files_seen == self._files_sent:
            return b""
        files = list(SOURCES.since(self._files_sent).items())
        parts = (dict(files[n : n + _FILES_OF_A_FRAME]) for n in range(0, len(files), _FILES_OF_A_FRAME))
        return b"".join(wire.json_frame(Frame.CODE, {"files": part}) for part in parts)

    def look_up(self, function: Any, options: JobOptions) -> tuple[Kind, bytes]:
        """Return the kind of this call, and the frames that describe it if the supervisor has not seen it yet."""
        if self.caller.refresh(getattr(function, "__module__", None)):
            self.forget()
        importable = pickler.is_importable(function, self.caller.by_value)
        key = (id(function) if importable else self._snapshot(function, _DEPTH), options)
        if key[0] is None:
            key = (function_name(function), options)
        kind = self._by_value.get(key)
        frames = b""
        if kind is None:
            kind, frames = self._register(function, options, key)
        if importable:
            self._functions[id(function)] = function
            if len(self.by_identity) >= MAX_KINDS:
                self.by_identity.clear()
            self.by_identity[id(function), id(options)] = (function, options, kind)
        return kind, frames

    def forget(self) -> None:
        """Begin anew, because there are too many, or because it is not known which have reached the supervisor."""
        self.by_identity.clear()
        self._by_value.clear()
        self._functions.clear()
        self._bytes = 0
        self._first_sent = self._count + 1
        self._forget_first = True
        self._told = None

    def adopt(self, other: Kind) -> tuple[Kind, bytes]:
        """Return a kind that was another connection's as one of this, and the frames that describe it if it is new."""
        kind = self._by_value.get(other.description)
        if kind is not None:
            return kind, b""
        return self._enter(other.description, other)

    def _register(self, function: Any, options: JobOptions, key: Any) -> tuple[Kind, bytes]:
        name = options.name or function_name(function)
        pickled = b"" if isinstance(key[0], str) else _dump(function, name, self.caller)
        if len(pickled) > wire.MAX_FUNCTION_BYTES:
            pickled = b""
        text = json.dumps({"name": name[:1000], "options": asdict(options)}).encode()
        return self._enter(key, Kind(0, not pickled, wire.U32.pack(len(text)) + text + pickled, name))

    def _enter(self, key: Any, kind: Kind) -> tuple[Kind, bytes]:
        frames = b""
        if len(self._by_value) >= MAX_KINDS or self._bytes > _MAX_BYTES:
            self.forget()
        self._bytes += len(kind.description)
        if self._forget_first:
            self._forget_first = False
            frames = wire.frame(Frame.FORGET, b"")
        if self._told != self.caller.description:
            frames += wire.json_frame(Frame.CALLER, self.caller.description)
            self._told = self.caller.description
        self._count += 1
        kind = self._by_value[key] = kind._replace(number=self._count)
        return kind, frames + wire.frame(Frame.KIND, wire.U32.pack(self._count) + kind.description)

    def _snapshot(self, function: Any, depth: int) -> Any:
        """Return a value that is equal for equal functions, None where that cannot be found out cheaply."""
        if type(function) is not types.FunctionType or depth == 0 or function.__dict__.keys() - {OPTIONS_ATTRIBUTE}:
            return None
        parts: list[Any] = [function.__code__]
        values = [cell.cell_contents for cell in function.__closure__ or () if _has_value(cell)]
        values += function.__defaults__ or ()
        values += (function.__kwdefaults__ or {}).values()
        names = _global_names(function.__code__)
        values += [function.__globals__[name] for name in names if name in function.__globals__]
        for value in values:
            if type(value) in _PLAIN:
                parts.append((type(value), value))
            elif self._goes_by_name(value):
                parts.append(id(value))
            else:
                inner = self._snapshot(value, depth - 1)
                if inner is None:
                    return None
                parts.append(inner)
        return tuple(parts)

    def _goes_by_name(self, value: Any) -> bool:
        by_value = self.caller.by_value
        if isinstance(value, types.ModuleType):
            return value.__name__ not in by_value
        callables = type | types.FunctionType | types.BuiltinFunctionType
        return isinstance(value, callables) and pickler.is_importable(value, by_value)


def _dump(function: Any, name: str, caller: Caller) -> bytes:
    try:
        return payload.dump_function(function, caller.by_value)
    except Exception as error:
        if came_from_outside(error):
            raise
        raise PayloadError(payload.explain((function, (), {}), name, error, caller.by_value)) from error


def _global_names(code: types.CodeType) -> list[str]:
    """Return the names that a function and the functions inside it look up, attributes included."""
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _global_names(constant)
    return names


def _has_value(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
