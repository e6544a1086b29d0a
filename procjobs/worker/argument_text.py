"""The arguments of a call as a short text, for people who look at a job.

What Python itself has is bounded before its text is made: of 100 MB in a list, the first few items are looked at. The `repr`
of another class is called as it is; whatever it raises is shown in its place.
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from procjobs.shared.table import arguments
from procjobs.worker.exceptions import format_line

_MAX_ITEMS: Final = 20
_MAX_ARGUMENTS: Final = 50
_MAX_LETTERS: Final = 300
_MAX_LEVEL: Final = 4


class _Texts(reprlib.Repr):
    """Texts of values. A method `repr_NAME` is for the types of that name."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = _MAX_LEVEL
        self.maxlist = self.maxtuple = self.maxdeque = self.maxarray = _MAX_ITEMS
        self.maxstring = self.maxother = self.maxlong = _MAX_LETTERS

    def repr1(self, x: Any, level: int) -> str:
        try:
            return super().repr1(x, level)
        except BaseException as error:  # noqa: BLE001 - the edge around the user's repr: the job is to run all the same
            return f"<{type(x).__name__}, whose repr raised {self._cut(format_line(error))}>"

    def repr_instance(self, x: Any, level: int) -> str:
        del level
        return self._cut(repr(x))

    def repr_bytes(self, x: bytes | bytearray, level: int) -> str:
        del level
        return self._cut(repr(x)) if len(x) <= _MAX_LETTERS else f"{x[:_MAX_LETTERS]!r}... ({len(x)} bytes)"

    repr_bytearray = repr_bytes

    def repr_dict(self, x: Mapping[Any, Any], level: int) -> str:
        if level <= 0 and x:
            return "{...}"
        inner = (f"{self.repr1(key, level - 1)}: {self.repr1(x[key], level - 1)}" for key in islice(x, _MAX_ITEMS))
        return f"{{{_join(inner, len(x))}}}"

    def repr_set(self, x: Collection[Any], level: int) -> str:
        return f"{{{self._join_items(x, level)}}}" if x else "set()"

    def repr_frozenset(self, x: Collection[Any], level: int) -> str:
        return f"frozenset({{{self._join_items(x, level)}}})" if x else "frozenset()"

    def _join_items(self, x: Collection[Any], level: int) -> str:
        return "..." if level <= 0 else _join((self.repr1(item, level - 1) for item in islice(x, _MAX_ITEMS)), len(x))

    def _cut(self, text: str) -> str:
        return text if len(text) <= _MAX_LETTERS else f"{text[: _MAX_LETTERS - 3]}..."


def _join(texts: Iterator[str], count: int) -> str:
    return ", ".join([*texts, "..."] if count > _MAX_ITEMS else texts)


_texts: Final = _Texts()


def describe_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return the arguments as they would stand in a call; many and long ones are cut. It never raises.

    >>> describe_call((1, "a", {"b": [2.5]}), {"codec": None})
    "1, 'a', {'b': [2.5]}, codec=None"
    """
    texts = [_texts.repr(value) for value in args[:_MAX_ARGUMENTS]]
    texts += [f"{name}={_texts.repr(value)}" for name, value in islice(kwargs.items(), _MAX_ARGUMENTS)]
    return ", ".join([*texts, "..."] if max(len(args), len(kwargs)) > _MAX_ARGUMENTS else texts)


class ArgumentRecorder:
    """Writes the arguments of each job that a worker begins, as a text beside the table."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._row, self._job_id = 0, b""

    def begin(self, row: int, job_id: bytes) -> None:
        """Note where the arguments of the job belong that begins now."""
        self._row, self._job_id = row, job_id

    def write(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Write the arguments of this job."""
        arguments.write(self._directory, self._row, self._job_id, describe_call(args, kwargs))
