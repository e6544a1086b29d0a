"""A deferred call as a task; one that is too large for a task has its bytes in a table of their own."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from procjobs.compat.taskqueue.deferred.calls import run, serialize
from procjobs.compat.taskqueue.deferred.errors import PermanentTaskFailure
from procjobs.compat.taskqueue.errors import TaskTooLargeError
from procjobs.compat.taskqueue.store.stored import load_payload
from procjobs.compat.taskqueue.task import Task
from procjobs.compat.taskqueue.web.gate import DEFERRED_URL

if TYPE_CHECKING:
    from procjobs.compat.taskqueue.store.records import NewTask

__all__ = ["MAX_CALL_BYTES", "defer", "run_from_datastore"]

MAX_CALL_BYTES: Final = 64 * 1024 * 1024
"""How large a pickled call may be."""
_HEADERS: Final = {"Content-Type": "application/octet-stream"}
_OF_TASKS: Final = ("countdown", "eta", "name", "target", "retry_options")


def defer(obj: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task:
    """Have `obj(*args, **kwargs)` called by the application's handler of /_ah/queue/deferred; return the added task.

    obj: a function, method, class or callable object, also a lambda or a function inside a function. It is copied with its
        arguments; those of modules find their globals in the code of the process that makes the call.
    _countdown, _eta, _headers, _name, _target, _url, _retry_options: as for a `taskqueue.Task`.
    _queue: the name of a push queue; "default" if it is not given.
    _transactional: add the task if and only if the transaction of the configured session commits, whatever its size.

    A call of more than 100 KiB is stored in a table of its own, in one transaction with the task, and deleted with it. Raise
    ValueError for what cannot be called, pickle.PicklingError for what cannot be pickled, TaskTooLargeError above 64 MiB,
    and what `taskqueue.Task` and its `add` raise.
    """
    options: dict[str, Any] = {name: kwargs.pop(f"_{name}", None) for name in _OF_TASKS}
    options["url"] = kwargs.pop("_url", DEFERRED_URL)
    options["headers"] = _HEADERS | (kwargs.pop("_headers", None) or {})
    queue = kwargs.pop("_queue", "default")
    is_transactional = kwargs.pop("_transactional", False)
    task = _make_task(serialize(obj, *args, **kwargs), options)
    task.add(queue, transactional=is_transactional)
    return task


def _make_task(data: bytes, options: dict[str, Any]) -> Task:
    try:
        return Task(payload=data, **options)
    except TaskTooLargeError:
        if len(data) > MAX_CALL_BYTES:
            raise TaskTooLargeError(
                f"the deferred call takes {len(data)} bytes, and at most {MAX_CALL_BYTES} are stored"
            ) from None
    return _LargeTask(data, options)


class _LargeTask(Task):
    """A task whose payload only says where the bytes of the call are."""

    def __init__(self, data: bytes, options: dict[str, Any]) -> None:
        self.__stored = (str(uuid.uuid4()), data)
        super().__init__(payload=serialize(run_from_datastore, self.__stored[0]), **options)

    def to_record(self, queue_name: str) -> NewTask:
        """Return the task as a row, and the bytes for the table of payloads."""
        return super().to_record(queue_name)._replace(stored=self.__stored)


def run_from_datastore(key: str) -> Any:
    """Make the call whose bytes are in the table under this key, and return its result; blocks for the database.

    Raise PermanentTaskFailure where they are not there any more, and what `run` raises.
    """
    data = load_payload(key)
    if data is None:
        raise PermanentTaskFailure(f"the bytes of the call, {key}, were deleted: its task has ended before")
    return run(data)
