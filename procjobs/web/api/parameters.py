"""Parameters of the API: each has a name, a JSON schema for the document, and a reader that says what is expected."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from procjobs.web.http import Problem

if TYPE_CHECKING:
    from procjobs.web.http import Request

MAX_LIMIT: Final = 500
MAX_IDS: Final = 1000
STATES: Final = ("queued", "scheduled", "running", "retrying", "succeeded", "failed", "cancelled", "expired")
_ID: Final = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}\Z", re.IGNORECASE)
_WORKERS: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?\Z")
_FORM: Final = "application/x-www-form-urlencoded"


class Parameter(NamedTuple):
    """A parameter of a query or a body. `read` turns its text into a value, or raises ValueError with what was expected.

    `is_many`: it may be given up to `most` times, and its value is a list. `default` is the value where it is not given.
    """

    name: str
    about: str
    schema: Mapping[str, Any]
    read: Callable[[str], Any]
    default: Any = None
    is_many: bool = False
    is_required: bool = False
    most: int = MAX_IDS


def text(name: str, about: str, *, longest: int = 200) -> Parameter:
    """Return a parameter whose value is a text."""

    def read(given: str) -> str:
        if not 1 <= len(given) <= longest:
            raise ValueError(f"a text of 1 to {longest} characters")
        return given

    return Parameter(name, about, {"type": "string", "minLength": 1, "maxLength": longest}, read)


def choice(name: str, about: str, values: Sequence[str]) -> Parameter:
    """Return a parameter whose value is one of some words."""

    def read(given: str) -> str:
        if given not in values:
            raise ValueError(f"one of {', '.join(values)}")
        return given

    return Parameter(name, about, {"type": "string", "enum": list(values)}, read)


def integer(name: str, about: str, *, least: int, most: int, default: int | None = None) -> Parameter:
    """Return a parameter whose value is a whole number."""

    def read(given: str) -> int:
        if not (given.isascii() and given.isdecimal()) or len(given) > 12 or not least <= int(given) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(given)

    schema: dict[str, Any] = {"type": "integer", "minimum": least, "maximum": most}
    return Parameter(name, about, schema if default is None else {**schema, "default": default}, read, default)


def switch(name: str, about: str) -> Parameter:
    """Return a parameter that is true or false, and false where it is not given."""

    def read(given: str) -> bool:
        known = {"true": True, "1": True, "on": True, "false": False, "0": False}
        if given not in known:
            raise ValueError("true or false")
        return known[given]

    return Parameter(name, about, {"type": "boolean", "default": False}, read, default=False)


def job_id(name: str, about: str) -> Parameter:
    """Return a parameter whose value is the id of a job, as text with dashes in lower case."""
    return Parameter(name, about, {"type": "string", "format": "uuid"}, read_job_id)


def read_job_id(given: str) -> str:
    """Return the id of a job in its usual form; raise ValueError for a text that is none."""
    if not _ID.match(given):
        raise ValueError("the id of a job, a UUID")
    plain = given.replace("-", "").lower()
    return "-".join((plain[:8], plain[8:12], plain[12:16], plain[16:20], plain[20:]))


def moment(name: str, about: str) -> Parameter:
    """Return a parameter whose value is a time: ISO 8601, or a Unix time in seconds. Without an offset it is UTC."""

    def read(given: str) -> float:
        expected = "a time in ISO 8601 such as 2026-07-01T06:00:00Z, or a Unix time in seconds"
        try:
            found = _read_moment(given)
        except (ValueError, OverflowError):
            raise ValueError(expected) from None
        if not math.isfinite(found) or not 0 <= found < 1e11:
            raise ValueError(expected)
        return found

    return Parameter(name, about, {"type": "string", "format": "date-time"}, read)


def _read_moment(given: str) -> float:
    try:
        return float(given)
    except ValueError:
        # A plus sign that is not escaped comes as a blank out of a query.
        parsed = datetime.fromisoformat(re.sub(r" (\d\d:?\d\d)$", r"+\1", given))
    return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)).timestamp()


def workers(name: str, about: str) -> Parameter:
    """Return a parameter whose value is a number of workers: 4, or 2-8 for a range, or auto."""

    def read(given: str) -> int | tuple[int, int] | str:
        found = _WORKERS.match(given)
        if given != "auto" and found is None:
            raise ValueError("a number such as 4, a range such as 2-8, or auto")
        if found is None:
            return "auto"
        least, most = found.groups()
        return int(least) if most is None else (int(least), int(most))

    return Parameter(name, about, {"type": "string", "pattern": r"^([0-9]{1,5}(-[0-9]{1,5})?|auto)$"}, read)


def read_values(given: Mapping[str, Sequence[str]], parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return the value of each parameter; raise a Problem (400) that names the parameter which is wrong.

    `given` are the texts of each name that the request has. A name that is not known is refused: with a filter that was
    mistyped and left out, a request would be about more jobs than its sender meant.
    """
    known = {parameter.name: parameter for parameter in parameters}
    for name in given:
        if name not in known:
            raise _bad(name[:60], f"there is no such parameter here; known are: {', '.join(known) or 'none'}")
    # A form sends its empty fields too: those were not filled in.
    return {name: _value_of(one, [text for text in given.get(name, ()) if text]) for name, one in known.items()}


def _value_of(parameter: Parameter, given: list[str]) -> Any:
    if not given:
        if parameter.is_required:
            raise _bad(parameter.name, "it is needed, and was not given")
        return parameter.default
    if len(given) > 1 and not parameter.is_many:
        raise _bad(parameter.name, f"it was given {len(given)} times; give it once")
    if len(given) > parameter.most:
        raise _bad(parameter.name, f"it was given {len(given)} times; at most {parameter.most} are taken at once")
    try:
        values = [parameter.read(one) for one in given]
    except ValueError as error:
        shown = next(one for one in given if not _is_readable(parameter, one))
        raise _bad(parameter.name, f"{_shorten(shown)} is not {error}") from None
    return values if parameter.is_many else values[0]


def _is_readable(parameter: Parameter, given: str) -> bool:
    try:
        parameter.read(given)
    except ValueError:
        return False
    return True


def _shorten(given: str) -> str:
    return repr(given if len(given) <= 60 else given[:57] + "...")


def _bad(name: str, text: str) -> Problem:
    return Problem(400, "Bad parameter", f"{name}: {text}")


def given_by(request: Request) -> dict[str, list[str]]:
    """Return the texts of each name in the query of a request and in its body: a form or a JSON object, or nothing.

    Raise a Problem: 400 for a body that is not what its type says, 415 for another type.
    """
    found = {name: list(texts) for name, texts in request.query.items()}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not request.body or kind == _FORM:
        body = request.form
    elif kind == "application/json":
        body = _read_json(request.json())
    else:
        raise Problem(415, "Unsupported type of body", f"Send {_FORM} or application/json, not {kind[:60] or 'no type'}.")
    for name, texts in body.items():
        found[name] = [*found.get(name, ()), *texts]
    return found


def _read_json(document: Any) -> dict[str, list[str]]:
    if not isinstance(document, dict):
        raise Problem(400, "Bad body", "The body is no JSON object: send {} or {name: value, ...}.")
    return {name: texts for name, value in document.items() if (texts := _texts_of(name, value))}


def _texts_of(name: str, value: Any) -> list[str]:
    """Return a JSON value as texts: one for each member of a list."""
    if value is None:
        return []
    if isinstance(value, list):
        if any(isinstance(member, list) for member in value):
            raise _bad(name, "a list of lists is no value of a parameter")
        return [one for member in value for one in _texts_of(name, member)]
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, str | int | float):
        return [str(value)]
    raise _bad(name, "an object is no value of a parameter")
