"""Google App Engine's task queues on a pool: `from procjobs.compat import taskqueue`.

    taskqueue.configure(base_url="http://127.0.0.1:8080")   # once, when the application starts
    taskqueue.add(url="/mail", params={"to": "ann@example.org"})

A task is a request to a handler of the application, or an item of a pull queue. Tasks are rows of a database; the pool
"taskqueue" sends those of push queues.

The names below are those of `google.appengine.api.taskqueue`, with `configure`, `NotConfiguredError` and the middleware on
top. Start reading in `task` and `queue`: what programs hold. `task_checks` has the rules, `adding` what comes of a call.
`settings` is what was configured, `store` the database, `sender` the process that sends, `web` the application's side of a
request, `signing` what both sides agree on, `deferred` calls of functions as tasks.
"""

import sys as _sys
from datetime import UTC as _UTC
from importlib import import_module as _import_module
from typing import Any as _Any

from procjobs.compat.taskqueue.constants import (
    DEFAULT_APP_VERSION,
    MAX_DISPATCH_DEADLINE,
    MAX_LEASE_SECONDS,
    MAX_PULL_TASK_SIZE_BYTES,
    MAX_PUSH_TASK_SIZE_BYTES,
    MAX_QUEUE_NAME_LENGTH,
    MAX_TAG_LENGTH,
    MAX_TASK_NAME_LENGTH,
    MAX_TASK_SIZE_BYTES,
    MAX_TASKS_PER_ADD,
    MAX_TASKS_PER_LEASE,
    MAX_TRANSACTIONAL_REQUEST_SIZE_BYTES,
    MAX_URL_LENGTH,
    MIN_DISPATCH_DEADLINE,
)
from procjobs.compat.taskqueue.constants import UNKNOWN_APP_VERSION as _UNKNOWN_APP_VERSION
from procjobs.compat.taskqueue.errors import (
    BadTaskStateError,
    BadTransactionState,
    BadTransactionStateError,
    DatastoreError,
    DuplicateTaskNameError,
    Error,
    InternalError,
    InvalidDeadlineError,
    InvalidDispatchDeadlineError,
    InvalidEtaError,
    InvalidLeaseTimeError,
    InvalidMaxTasksError,
    InvalidQueueError,
    InvalidQueueModeError,
    InvalidQueueNameError,
    InvalidTagError,
    InvalidTaskError,
    InvalidTaskNameError,
    InvalidTaskRetryOptionsError,
    InvalidUrlError,
    NotConfiguredError,
    PermissionDeniedError,
    QueuePausedError,
    TaskAlreadyExistsError,
    TaskLeaseExpiredError,
    TaskTooLargeError,
    TombstonedTaskError,
    TooManyTasksError,
    TransactionalRequestTooLargeError,
    TransientError,
    UnknownQueueError,
)
from procjobs.compat.taskqueue.errors import RelativeUrlError as _RelativeUrlError
from procjobs.compat.taskqueue.queue import Queue, QueueStatistics
from procjobs.compat.taskqueue.results import create_rpc
from procjobs.compat.taskqueue.retry_options import TaskRetryOptions
from procjobs.compat.taskqueue.settings.configuring import configure
from procjobs.compat.taskqueue.shortcuts import add, add_async
from procjobs.compat.taskqueue.task import Task
from procjobs.compat.taskqueue.task_checks import flatten_params as _flatten_params
from procjobs.compat.taskqueue.task_checks import parse_relative_url as _parse_relative_url

__all__ = [
    "DEFAULT_APP_VERSION",
    "MAX_DISPATCH_DEADLINE",
    "MAX_LEASE_SECONDS",
    "MAX_PULL_TASK_SIZE_BYTES",
    "MAX_PUSH_TASK_SIZE_BYTES",
    "MAX_QUEUE_NAME_LENGTH",
    "MAX_TAG_LENGTH",
    "MAX_TASKS_PER_ADD",
    "MAX_TASKS_PER_LEASE",
    "MAX_TASK_NAME_LENGTH",
    "MAX_TASK_SIZE_BYTES",
    "MAX_TRANSACTIONAL_REQUEST_SIZE_BYTES",
    "MAX_URL_LENGTH",
    "MIN_DISPATCH_DEADLINE",
    "BadTaskStateError",
    "BadTransactionState",
    "BadTransactionStateError",
    "DatastoreError",
    "DuplicateTaskNameError",
    "Error",
    "InternalError",
    "InvalidDeadlineError",
    "InvalidDispatchDeadlineError",
    "InvalidEtaError",
    "InvalidLeaseTimeError",
    "InvalidMaxTasksError",
    "InvalidQueueError",
    "InvalidQueueModeError",
    "InvalidQueueNameError",
    "InvalidTagError",
    "InvalidTaskError",
    "InvalidTaskNameError",
    "InvalidTaskRetryOptionsError",
    "InvalidUrlError",
    "NotConfiguredError",
    "PermissionDeniedError",
    "Queue",
    "QueuePausedError",
    "QueueStatistics",
    "Task",
    "TaskAlreadyExistsError",
    "TaskLeaseExpiredError",
    "TaskRetryOptions",
    "TaskTooLargeError",
    "TombstonedTaskError",
    "TooManyTasksError",
    "TransactionalRequestTooLargeError",
    "TransientError",
    "UnknownQueueError",
    "add",
    "add_async",
    "configure",
    "create_rpc",
    "wrap_asgi_app",
    "wrap_wsgi_app",
]

_PRIVATE = (_UTC, _UNKNOWN_APP_VERSION, _RelativeUrlError, _flatten_params, _parse_relative_url)
"""Names that the original has for itself alone; programs' own tests use them."""

_MIDDLEWARE = {"wrap_asgi_app", "wrap_wsgi_app"}



def __getattr__(name: str) -> _Any:
    """Import what is not always needed; and this module under its name inside the original's package."""
    if name == "taskqueue":
        return _sys.modules[__name__]
    if name in _MIDDLEWARE or name == "deferred":
        module = _import_module(f"{__name__}.{'deferred' if name == 'deferred' else 'web.middleware'}")
        return module if name == "deferred" else getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
