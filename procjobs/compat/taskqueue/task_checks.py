"""The rules for tasks and for calls, each with its exception. Nothing here needs a configuration or a database."""

from __future__ import annotations

import calendar
import datetime as dt
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from procjobs.compat.taskqueue.constants import (
    MAX_DISPATCH_DEADLINE,
    MAX_LEASE_SECONDS,
    MAX_QUEUE_NAME_LENGTH,
    MAX_TASK_NAME_LENGTH,
    MAX_TASKS_PER_LEASE,
    MAX_URL_LENGTH,
    MIN_DISPATCH_DEADLINE,
)
from procjobs.compat.taskqueue.errors import (
    InvalidDeadlineError,
    InvalidDispatchDeadlineError,
    InvalidLeaseTimeError,
    InvalidMaxTasksError,
    InvalidQueueNameError,
    InvalidTagError,
    InvalidTaskError,
    InvalidTaskNameError,
    InvalidUrlError,
    RelativeUrlError,
)

_TASK_NAME: Final = re.compile(rf"[a-zA-Z0-9_-]{{1,{MAX_TASK_NAME_LENGTH}}}")
_QUEUE_NAME: Final = re.compile(rf"[a-zA-Z0-9-]{{1,{MAX_QUEUE_NAME_LENGTH}}}")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token of RFC 9110, section 5.6.2."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_UNSENDABLE: Final = re.compile(rb"[\r\n\0]")


def check_task_name(name: str) -> None:
    """Raise InvalidTaskNameError for a name that no task may have."""
    if not _TASK_NAME.fullmatch(name):
        raise InvalidTaskNameError(f"the name of a task has to match {_TASK_NAME.pattern}, and {_shorten(name)} does not")


def check_queue_name(name: str) -> None:
    """Raise InvalidQueueNameError for a name that no queue may have."""
    if not _QUEUE_NAME.fullmatch(name):
        raise InvalidQueueNameError(f"the name of a queue has to match {_QUEUE_NAME.pattern}, and {_shorten(name)} does not")


def _shorten(name: str) -> str:
    return repr(name) if len(name) <= 100 else f"{name[:50]!r}... of {len(name)} characters"


def parse_relative_url(url: str) -> tuple[str, str]:
    """Return the path and the query of a relative url; raise RelativeUrlError for any other text."""
    if _CONTROL.search(url):  # urlsplit() would drop some of them
        raise RelativeUrlError(f"the url {url!r} has a control character or half a character")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise RelativeUrlError(f"the url {url!r} cannot be read: {error}") from None
    if parts.scheme or parts.netloc:
        raise RelativeUrlError(f"the url {url!r} has a scheme or a host: give the path alone, and the host as a target")
    if parts.fragment:
        raise RelativeUrlError(f"the url {url!r} has a fragment, which no request can have")
    if not parts.path.startswith("/"):
        raise RelativeUrlError(f"the url {url!r} does not begin with a slash")
    return parts.path, parts.query


def split_url(url: str | None) -> tuple[str, str]:
    """Return the path and the query of a task's url, ('', '') if it has none; raise InvalidUrlError."""
    if not url:
        return "", ""
    try:
        path, query = parse_relative_url(url)
    except RelativeUrlError as error:
        raise InvalidUrlError(str(error)) from None
    if len(path) > MAX_URL_LENGTH:
        raise InvalidUrlError(f"the url of a task has at most {MAX_URL_LENGTH} characters, and this one {len(path)}")
    return path, query


def flatten_params(params: Mapping[Any, Any]) -> list[tuple[bytes, bytes]]:
    """Return keys and values as UTF-8; a value that is iterable, and no text, gives a pair for each of its items."""
    pairs = []
    for key, value in params.items():
        values = [value] if isinstance(value, str | bytes) or not isinstance(value, Iterable) else value
        pairs += [(_encode(key), _encode(each)) for each in values]
    return pairs


def _encode(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def encode_params(params: Mapping[Any, Any]) -> str:
    """Return parameters as a query, or as the body of a form."""
    return urlencode(flatten_params(params))


def tag_text(tag: str | bytes | None) -> str | None:
    """Return a tag as text, None for an empty one; raise InvalidTagError for what is no text in UTF-8."""
    try:
        return (tag.decode() if isinstance(tag, bytes) else tag.encode().decode()) if tag else None
    except UnicodeError as error:
        raise InvalidTagError(f"tag={tag!r} is no text: {error}") from None


def check_headers(headers: Mapping[str, Any]) -> None:
    """Raise InvalidTaskError for headers that no request can carry."""
    for name in headers:
        if not _HEADER_NAME.fullmatch(name):
            raise InvalidTaskError(f"{name!r} cannot be the name of a header")
    for key, value in flatten_params(headers):
        if _UNSENDABLE.search(value):
            raise InvalidTaskError(f"the header {key.decode()} has a line break or a zero character in its value")


def convert_payload(payload: Any, headers: MutableMapping[str, Any]) -> bytes | None:
    """Return a payload as bytes; that of a text gets its content type into `headers`. Raise InvalidTaskError."""
    if payload is None or payload == "":
        return None if payload is None else b""
    if isinstance(payload, str):
        headers.setdefault("content-type", "text/plain; charset=utf-8")
        return payload.encode()
    if not isinstance(payload, bytes):
        raise InvalidTaskError(f"the payload of a task is text or bytes, and not of type {type(payload).__name__}")
    return payload


def determine_eta_posix(
    eta: dt.datetime | None = None, countdown: Any = None, current_time: Callable[[], float] | None = None
) -> float:
    """Return when a task is due, in seconds since 1970 in UTC; an eta without a time zone is local time.

    Raise InvalidTaskError for both an eta and a countdown, and for values that are none.
    """
    now = current_time or time.time
    if eta is not None and countdown is not None:
        raise InvalidTaskError("a task has an eta or a countdown, and not both")
    if eta is not None:
        if not isinstance(eta, dt.datetime):
            raise InvalidTaskError(f"eta={eta!r}: expected a datetime.datetime")
        seconds = time.mktime(eta.timetuple()) if eta.tzinfo is None else calendar.timegm(eta.utctimetuple())
        return seconds + eta.microsecond * 1e-6
    if countdown is None:
        return now()
    try:
        seconds = float(countdown)
    except ValueError:
        raise InvalidTaskError(f"countdown={countdown!r}: expected a number of seconds") from None
    except OverflowError:
        raise InvalidTaskError("the countdown is out of range") from None
    if math.isnan(seconds) or seconds == -math.inf:
        raise InvalidTaskError(f"countdown={countdown!r}: expected a number of seconds")
    return now() + seconds


def check_dispatch_deadline(usec: Any) -> None:
    """Raise TypeError or InvalidDispatchDeadlineError for a time that no request may take, in microseconds."""
    if not isinstance(usec, int):
        raise TypeError(f"dispatch_deadline_usec={usec!r}: expected microseconds as an integer")
    least, most = (round(limit.total_seconds() * 1_000_000) for limit in (MIN_DISPATCH_DEADLINE, MAX_DISPATCH_DEADLINE))
    if not least <= usec <= most:
        raise InvalidDispatchDeadlineError(f"dispatch_deadline_usec={usec}: expected {least} to {most} (15 s to 24 h)")


def check_deadline(seconds: Any) -> None:
    """Raise TypeError or InvalidDeadlineError for a deadline that no call may have."""
    if not isinstance(seconds, int | float):
        raise TypeError(f"deadline={seconds!r}: expected a number of seconds")
    if not seconds > 0:
        raise InvalidDeadlineError(f"deadline={seconds}: expected more than zero seconds")


def check_lease_seconds(seconds: Any) -> float:
    """Return how long a lease is; raise TypeError or InvalidLeaseTimeError."""
    if not isinstance(seconds, int | float):
        raise TypeError(f"lease_seconds={seconds!r}: expected a number of seconds")
    if not 0 <= seconds <= MAX_LEASE_SECONDS:
        raise InvalidLeaseTimeError(f"lease_seconds={seconds}: expected 0 to {MAX_LEASE_SECONDS} (a week)")
    return float(seconds)


def check_max_tasks(number: Any) -> None:
    """Raise TypeError or InvalidMaxTasksError for a number of tasks that no call can lease."""
    if not isinstance(number, int):
        raise TypeError(f"max_tasks={number!r}: expected an integer")
    if not 0 < number <= MAX_TASKS_PER_LEASE:
        raise InvalidMaxTasksError(f"max_tasks={number}: expected 1 to {MAX_TASKS_PER_LEASE}")
