"""Tasks into queues: the rules of the call first, then one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from procjobs.compat.taskqueue import sending
from procjobs.compat.taskqueue.constants import MAX_TASKS_PER_ADD, MAX_TRANSACTIONAL_REQUEST_SIZE_BYTES
from procjobs.compat.taskqueue.errors import (
    BadTaskStateError,
    BadTransactionStateError,
    DuplicateTaskNameError,
    InvalidQueueModeError,
    InvalidTagError,
    InvalidTaskError,
    InvalidTaskNameError,
    NotConfiguredError,
    TooManyTasksError,
    TransactionalRequestTooLargeError,
)
from procjobs.compat.taskqueue.results import Result, refuse_rpc
from procjobs.compat.taskqueue.settings import configuration
from procjobs.compat.taskqueue.store import rows
from procjobs.compat.taskqueue.store import transactional as transactional_rows
from procjobs.compat.taskqueue.store.storage import refuse_overflow, stored_bytes, stored_bytes_within
from procjobs.compat.taskqueue.task_checks import check_queue_name

if TYPE_CHECKING:
    from procjobs.compat.taskqueue.settings.configuration import Configuration
    from procjobs.compat.taskqueue.store.records import Added, NewTask


class Addable(Protocol):
    """What a task is to those who add it."""

    @property
    def name(self) -> str | None:
        """Its name, if it has one."""

    @property
    def method(self) -> str:
        """PULL, or that of the request."""

    @property
    def was_enqueued(self) -> bool:
        """Whether it is in a queue."""

    def to_record(self, queue_name: str) -> NewTask:
        """Return it as a row."""

    def mark_added(self, queue_name: str, name: str) -> None:
        """Note that it is in a queue."""


def add_async(queue_name: str, task: Any, transactional: bool, rpc: object) -> Result[Any]:
    """Add a task, or several; see `Queue.add_async`."""
    refuse_rpc(rpc)
    check_queue_name(queue_name)
    tasks: list[Addable] = list(task) if isinstance(task, Iterable) else [task]
    _check(tasks)
    records = [each.to_record(queue_name) for each in tasks]
    if transactional:
        _check_transactional(records)
    current = configuration.current()
    _check_destination(current, queue_name, records)

    def add() -> Any:
        _note(queue_name, tasks, _insert(current, queue_name, records, transactional))
        return tasks if isinstance(task, Iterable) else task

    return Result(add)


def _check(tasks: Sequence[Addable]) -> None:
    if len({each.method == "PULL" for each in tasks}) > 1:
        raise InvalidTaskError("one call adds push tasks or pull tasks, and not both")
    if len(tasks) > MAX_TASKS_PER_ADD:
        raise TooManyTasksError(f"one call adds at most {MAX_TASKS_PER_ADD} tasks, and these are {len(tasks)}")
    names = set()
    for task in tasks:
        if task.name:
            if task.name in names:
                raise DuplicateTaskNameError(f"the name {task.name!r} is used twice in one call")
            names.add(task.name)
        if task.was_enqueued:
            raise BadTaskStateError(f"the task {task.name!r} is in a queue already: add a new one")


def _check_transactional(records: Sequence[NewTask]) -> None:
    session = configuration.current().session if configuration.is_configured() else None
    if session is None:
        raise BadTransactionStateError(
            "a task of a transaction needs the session that has it: call configure(session=...) with a scoped_session, a "
            "sessionmaker, or a function that returns the session"
        )
    transactional_rows.find_transaction(session)
    for record in records:
        if record.name:
            raise InvalidTaskNameError(f"a task of a transaction cannot have a name, and this one has {record.name!r}")
    size = sum(record.size for record in records)
    if size > MAX_TRANSACTIONAL_REQUEST_SIZE_BYTES:
        raise TransactionalRequestTooLargeError(
            f"the tasks of a transaction take at most {MAX_TRANSACTIONAL_REQUEST_SIZE_BYTES} bytes, and these {size}"
        )


def _check_destination(current: Configuration, queue_name: str, records: Sequence[NewTask]) -> None:
    """Raise NotConfiguredError if it is not known where to send a task."""
    queue = current.queues.get(queue_name)
    for record in records:
        target = record.target if record.target is not None or queue is None else queue.target
        if record.mode == "push" and current.base_url is None and target not in current.targets:
            raise NotConfiguredError(
                "push tasks need the url of the application: call configure(base_url='http://127.0.0.1:8080') when it starts"
            )


def _insert(
    current: Configuration, queue_name: str, records: Sequence[NewTask], transactional: bool
) -> Sequence[Added]:
    queue = current.queue(queue_name)
    if not records:
        return []
    if records[0].mode != queue.mode:
        raise InvalidQueueModeError(
            f"the queue {queue_name!r} is a {queue.mode} queue, and takes no {records[0].mode} tasks"
        )
    if current.store.startswith("postgresql") and any("\0" in (record.tag or "") for record in records):
        raise InvalidTagError("a tag in PostgreSQL cannot have a zero character")
    if queue.mode == "push":
        sending.ensure(current)
    if current.total_storage_limit is not None:
        transaction = transactional_rows.find_transaction(current.session) if transactional else None
        used = current.database.run(stored_bytes) if transaction is None else stored_bytes_within(transaction)
        refuse_overflow(current.total_storage_limit, used, records)
    if transactional:
        return transactional_rows.add(current.session, current.database, queue_name, records)
    return rows.add(current.database, queue_name, records)


def _note(queue_name: str, tasks: Sequence[Addable], outcomes: Sequence[Added]) -> None:
    """Note the names in the tasks that were added; raise the error of the others."""
    for task, outcome in zip(tasks, outcomes, strict=True):
        if outcome.error is None:
            task.mark_added(queue_name, outcome.name)
    error = rows.worst_error(outcomes)
    if error is not None:
        raise error
