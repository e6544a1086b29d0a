"""Tasks as the modules that write rows know them: plain values, checked already."""

from __future__ import annotations

from typing import NamedTuple

from procjobs.compat.taskqueue.errors import Error
from procjobs.compat.taskqueue.settings.queues import Mode, RetryParameters


class NewTask(NamedTuple):
    """A task to add. Times are microseconds since 1970 in UTC, `payload` the bytes of the body."""

    name: str | None
    """None: a name is to be chosen."""
    mode: Mode
    method: str
    url: str
    """The path with its query; of a task without a url, that of its queue. Empty for pull tasks."""
    target: str | None
    """The key of `configure(targets=)`; None: what the queue has, '': the base url whatever the queue has."""
    headers: tuple[tuple[str, str], ...]
    """In the caller's spelling, in order, without X-AppEngine-*; a name may be there more than once."""
    payload: bytes | None
    tag: str | None
    eta_usec: int
    retry: RetryParameters | None
    """None: that of the queue."""
    deadline_usec: int | None
    """How long a request may take, in microseconds; None: the default."""
    size: int
    """Bytes of the task, as the limits count them."""
    stored: tuple[str, bytes] | None = None
    """Id and data of a payload that is too large for a task: a row of `tables.payloads`, in the transaction of the task."""


class Added(NamedTuple):
    """What has become of one task of a batch: `error` is None when it is in the queue."""

    name: str
    error: Error | None = None


class Deleted(NamedTuple):
    """Whether the call has deleted the task: not if it is unknown or has ended; `error` where it could not be."""

    name: str
    was_deleted: bool
    error: Error | None = None


class LeasedTask(NamedTuple):
    """A task of a pull queue that is leased: `eta_usec` is when the lease ends."""

    name: str
    payload: bytes
    tag: str | None
    eta_usec: int
    retry_count: int
    """How often it was leased, this time included."""


class Statistics(NamedTuple):
    """The state of one queue. `oldest_eta_usec` is None when it is empty; of pull queues the last two are None."""

    tasks: int
    oldest_eta_usec: int | None
    executed_last_minute: int
    in_flight: int | None
    enforced_rate: float | None
