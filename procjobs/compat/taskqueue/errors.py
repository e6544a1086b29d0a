"""The exceptions, each under the base that it has in the original."""

from __future__ import annotations

from procjobs.errors import ConfigurationError

__all__ = [
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
    "QueuePausedError",
    "RelativeUrlError",
    "TaskAlreadyExistsError",
    "TaskLeaseExpiredError",
    "TaskTooLargeError",
    "TombstonedTaskError",
    "TooManyTasksError",
    "TransactionalRequestTooLargeError",
    "TransientError",
    "UnknownQueueError",
]


class Error(Exception):
    """The base of all exceptions of the task queues."""


class UnknownQueueError(Error):
    """No queue has this name."""


class TransientError(Error):
    """The database could not be used just now; the same call may succeed later."""


class InternalError(Error):
    """The database or the pool answered in a way that no call explains."""


class InvalidTaskError(Error):
    """The parameters, headers, method or payload of a task are wrong."""


class InvalidTaskNameError(InvalidTaskError):
    """The name of a task is wrong, or a task of a transaction has one."""


class TaskTooLargeError(InvalidTaskError):
    """A task takes more bytes than a task may, its url and headers included."""


class TaskAlreadyExistsError(InvalidTaskError):
    """A task of this name is in the queue and has not ended."""


class TombstonedTaskError(InvalidTaskError):
    """A task of this name has ended or was deleted, and its name cannot be used again yet."""


class InvalidUrlError(InvalidTaskError):
    """The url of a task is not relative, or too long."""


class InvalidEtaError(InvalidTaskError):
    """The eta of a task is too far in the future."""


class BadTaskStateError(Error):
    """The task was added, or deleted, before, or has no name where one is needed."""


class InvalidQueueError(Error):
    """The configuration of a queue is wrong."""


class InvalidQueueNameError(InvalidQueueError):
    """The name of a queue is wrong."""


class RelativeUrlError(Error):
    """A text is no relative url."""


class PermissionDeniedError(Error):
    """The operation is not allowed."""


class DuplicateTaskNameError(Error):
    """Two tasks of one call have the same name."""


class TooManyTasksError(Error):
    """One call has too many tasks."""


class DatastoreError(Error):
    """The database of the queues failed."""


class BadTransactionStateError(Error):
    """There is no transaction that the task could belong to, or it takes no more of them."""


BadTransactionState = BadTransactionStateError
"""The name that the exception had first."""


class InvalidTaskRetryOptionsError(Error):
    """The retry options of a task are wrong."""


class InvalidLeaseTimeError(Error):
    """A lease would be shorter or longer than a lease may be."""


class InvalidMaxTasksError(Error):
    """The number of tasks to lease is not positive, or too large."""


class InvalidDeadlineError(Error):
    """A deadline is not positive."""


class InvalidQueueModeError(Error):
    """An operation of pull queues was asked of a push queue, or the other way round."""


class TransactionalRequestTooLargeError(TaskTooLargeError):
    """The tasks of one transaction take too many bytes together."""


class TaskLeaseExpiredError(Error):
    """The lease of a task has ended, or another lease has begun since."""


class QueuePausedError(Error):
    """The queue is paused, so that leases cannot be changed. Here they can be, and nothing raises it."""


class InvalidTagError(Error):
    """A tag is too long."""


class InvalidDispatchDeadlineError(Error):
    """The time that a request may take is too short or too long."""


class NotConfiguredError(Error, ConfigurationError):
    """The queues are used before `configure` has said what they need. The original has no such exception."""
