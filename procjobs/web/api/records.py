"""Records of a pool as JSON documents, and the JSON schemas of these documents. Both are made from the fields of a record.

Times are ISO 8601 text in UTC. Text is cleaned and bounded, since jobs have written it (`procjobs.web.text`).
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final, TypeAlias, Union, get_args, get_origin, get_type_hints

from procjobs.web.moments import iso
from procjobs.web.text import MAX_ERROR, MAX_LOG, MAX_MESSAGE, MAX_NAME, clean, clean_lines

_PLAIN: Final[Mapping[Any, dict[str, Any]]] = {
    int: {"type": "integer"},
    float: {"type": ["number", "null"]},  # JSON has no infinity
    str: {"type": "string"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}
MOMENT: Final[Mapping[str, Any]] = {"type": "string", "format": "date-time"}
_LONGEST: Final = {
    "name": MAX_NAME, "call": MAX_NAME, "message": MAX_MESSAGE, "error": MAX_ERROR, "last_error": MAX_ERROR,
    "traceback": MAX_LOG, "error_details": MAX_LOG, "log": MAX_LOG, "stderr": MAX_LOG,
}  # fmt: skip
_ONE_LINE: Final = frozenset({"name", "call", "message", "queue", "key", "schedule", "command"})
_USUAL: Final = 2000
"""How many characters of a text are shown that is not one of the above."""


Schemas: TypeAlias = "Mapping[str, Callable[[], Mapping[str, Any]]]"
"""Schemas of the OpenAPI document by name; each is made when it is asked for."""


class Shape:
    """How the records of one class are shown: without some of their fields, and with some of these as times."""

    def __init__(
        self, record: type[Any], about: str, *, moments: tuple[str, ...] = (), without: tuple[str, ...] = ()
    ) -> None:
        self._record = record
        self._about = about
        self._moments = frozenset(moments)
        self._names = [name for name in record._fields if name not in without]

    def document(self, record: Any) -> dict[str, Any]:
        """Return the document of a record."""
        return {name: self._value(name, getattr(record, name)) for name in self._names}

    def schema(self) -> dict[str, Any]:
        """Return the schema of these documents. Every field is there in each of them."""
        hints = get_type_hints(self._record)
        fields = {name: self._field(name, hints[name]) for name in self._names}
        return {"type": "object", "description": self._about, "properties": fields, "required": list(fields)}

    def _value(self, name: str, value: Any) -> Any:
        if name not in self._moments:
            return plain(value, name)
        return [iso(one) for one in value] if isinstance(value, tuple) else iso(value)

    def _field(self, name: str, hint: Any) -> dict[str, Any]:
        if name not in self._moments:
            return schema_of(hint)
        if get_origin(hint) is tuple:
            return {"type": "array", "items": dict(MOMENT)}
        return or_null(MOMENT) if type(None) in get_args(hint) else dict(MOMENT)


def plain(value: Any, name: str = "") -> Any:
    """Return a value of a record's field of that name as JSON has it."""
    if value is None or isinstance(value, str | int | float):
        return _plain_value(value, name)
    if hasattr(value, "_asdict"):
        return {name: plain(inner, name) for name, inner in value._asdict().items()}
    if isinstance(value, Mapping):
        return {clean(str(key), _USUAL): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return clean_lines(repr(value), _USUAL)


def _plain_value(value: Any, name: str) -> Any:
    if isinstance(value, str):
        limit = _LONGEST.get(name, _USUAL)
        return clean(value, limit) if name in _ONE_LINE else clean_lines(value, limit)
    return None if isinstance(value, float) and not isfinite(value) else value


def schema_of(hint: Any) -> dict[str, Any]:
    """Return the schema of what `plain` makes of values of a type.

    >>> schema_of(tuple[float, ...]), schema_of(int | None)
    ({'type': 'array', 'items': {'type': ['number', 'null']}}, {'type': ['integer', 'null']})
    """
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    if hasattr(hint, "_fields"):
        hints = get_type_hints(hint)
        return {"type": "object", "properties": {name: schema_of(hints[name]) for name in hint._fields},
                "required": list(hint._fields)}  # fmt: skip
    kinds = get_args(hint)
    origin = get_origin(hint)
    if origin in {Union, types.UnionType}:
        shown = [schema_of(one) for one in kinds if one is not type(None)]
        return or_null(shown[0]) if type(None) in kinds else {"anyOf": shown}
    if origin in {tuple, list}:
        return {"type": "array", "items": schema_of(kinds[0])}
    if origin in {dict, Mapping}:
        return {"type": "object", "additionalProperties": schema_of(kinds[1])}
    raise TypeError(f"there is no schema for {hint}")


def or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema that takes null too."""
    if "type" not in schema:
        return {"anyOf": [dict(schema), {"type": "null"}]}
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return {**schema, "type": [*kinds, *([] if "null" in kinds else ["null"])]}
