"""Queues and their statistics, as programs use them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from procjobs.compat.taskqueue import adding
from procjobs.compat.taskqueue.errors import BadTaskStateError, DuplicateTaskNameError
from procjobs.compat.taskqueue.results import Result, refuse_rpc
from procjobs.compat.taskqueue.settings import configuration
from procjobs.compat.taskqueue.settings.queues import DEFAULT_QUEUE
from procjobs.compat.taskqueue.store import leases, rows
from procjobs.compat.taskqueue.task import Task
from procjobs.compat.taskqueue.task_checks import (
    check_deadline,
    check_lease_seconds,
    check_max_tasks,
    check_queue_name,
    tag_text,
)

_DEADLINE: Final = 10.0
"""Seconds that a call may take in the original. Here a deadline is checked and not needed: no call waits for a server."""


class Queue:
    """A queue of queue.yaml, by its name; "default" is there without a file. Queues of the same name are equal.

    Raise InvalidQueueNameError for a name that no queue may have. The methods raise UnknownQueueError for a queue that is
    not in the file, TransientError where the database cannot be used, and NotConfiguredError before `configure`. They block
    for a transaction. So do those with `_async`, which keep what comes of it for `get_result()`.
    """

    def __init__(self, name: str = DEFAULT_QUEUE) -> None:
        check_queue_name(name)
        self._name = name

    @property
    def name(self) -> str:
        """The name."""
        return self._name

    def __eq__(self, other: object) -> bool:
        return self._name == other._name if isinstance(other, Queue) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._name)

    def __repr__(self) -> str:
        return f"Queue<name={self._name!r}>"

    # Adding and removing ----------------------------------------------------------------------------------------

    def add_async(self, task: Task | Iterable[Task], transactional: bool = False, rpc: None = None) -> Result[Any]:
        """Add a task, or up to 100 of them; `get_result()` returns what was given.

        All tasks are added that can be. Then the error of the others is raised: TaskAlreadyExistsError for a name that is in
        the queue, TombstonedTaskError for one that was, and cannot be used again yet.

        transactional: add them if and only if the transaction of `configure(session=)` commits: without names, at most 5 and
            1 MiB a transaction. Raise BadTransactionStateError where there is none.

        Raise InvalidTaskError for push and pull tasks in one call, TooManyTasksError, DuplicateTaskNameError for a name that
        is there twice, BadTaskStateError for a task that was added before, and InvalidQueueModeError for a push task in a
        pull queue or the other way round.
        """
        return adding.add_async(self._name, task, transactional, rpc)

    def add(self, task: Task | Iterable[Task], transactional: bool = False) -> Any:
        """Add a task, or up to 100 of them, and return what was given; see `add_async`."""
        if not task:
            return []
        return self.add_async(task, transactional).get_result()

    def delete_tasks_by_name_async(self, task_name: str | Iterable[str], rpc: None = None) -> Result[Any]:
        """Delete a task, or several, by name; `get_result()` returns tasks with these names, each with its `was_deleted`."""
        if isinstance(task_name, str):
            return self.delete_tasks_async(Task(name=task_name), rpc)
        return self.delete_tasks_async([Task(name=name) for name in task_name], rpc)

    def delete_tasks_by_name(self, task_name: str | Iterable[str]) -> Any:
        """Delete a task, or several, by name; see `delete_tasks_by_name_async`."""
        return self.delete_tasks_by_name_async(task_name).get_result()

    def delete_tasks_async(self, task: Task | Iterable[Task], rpc: None = None) -> Result[Any]:
        """Delete the tasks with the names of these; `get_result()` returns what was given.

        `was_deleted` of each is False for a name that is not in the queue, or has ended. A task that runs is not retried.
        The names cannot be used again for 9 days.

        Raise BadTaskStateError for a task without a name and for one that was deleted before, and DuplicateTaskNameError for
        a name that is there twice.
        """
        refuse_rpc(rpc)
        tasks = list(task) if isinstance(task, Iterable) else [task]
        names = _names_to_delete(tasks)
        configuration.current()

        def delete() -> Any:
            current = configuration.current()
            for each, outcome in zip(tasks, rows.delete_tasks(current.database, self._known(), names), strict=True):
                each.mark_deleted(outcome.was_deleted)
            return tasks if isinstance(task, Iterable) else task

        return Result(delete)

    def delete_tasks(self, task: Task | Iterable[Task]) -> Any:
        """Delete the tasks with the names of these and return what was given; see `delete_tasks_async`."""
        return self.delete_tasks_async(task).get_result()

    def purge(self) -> None:
        """Remove all tasks of the queue but those that are running."""
        rows.purge(configuration.current().database, self._known())

    # Pull queues ------------------------------------------------------------------------------------------------

    def lease_tasks_async(self, lease_seconds: float, max_tasks: int, rpc: None = None) -> Result[list[Task]]:
        """Lease tasks of a pull queue; see `lease_tasks`."""
        refuse_rpc(rpc)
        return self._lease(lease_seconds, max_tasks, by_tag=False, tag=None)

    def lease_tasks(self, lease_seconds: float, max_tasks: int, deadline: float = _DEADLINE) -> list[Task]:
        """Return up to `max_tasks` tasks (1000) of a pull queue that are due, the oldest eta first.

        No other call has them until `lease_seconds` from now (0 to a week), when they come back unless they were deleted.
        `task_retry_limit` of a task or of its queue is how often it is leased; after that it is dropped.

        Raise TypeError, InvalidLeaseTimeError, InvalidMaxTasksError or InvalidDeadlineError for wrong numbers, and
        InvalidQueueModeError for a push queue.
        """
        check_deadline(deadline)
        return self.lease_tasks_async(lease_seconds, max_tasks).get_result()

    def lease_tasks_by_tag_async(
        self, lease_seconds: float, max_tasks: int, tag: str | bytes | None = None, rpc: None = None
    ) -> Result[list[Task]]:
        """Lease tasks of a pull queue that have one tag; see `lease_tasks_by_tag`."""
        refuse_rpc(rpc)
        return self._lease(lease_seconds, max_tasks, by_tag=True, tag=tag)

    def lease_tasks_by_tag(
        self, lease_seconds: float, max_tasks: int, tag: str | bytes | None = None, deadline: float = _DEADLINE
    ) -> list[Task]:
        """Return tasks as `lease_tasks` does, but only those with this tag; None is the tag of the oldest task."""
        check_deadline(deadline)
        return self.lease_tasks_by_tag_async(lease_seconds, max_tasks, tag).get_result()

    def _lease(self, lease_seconds: float, max_tasks: int, *, by_tag: bool, tag: str | bytes | None) -> Result[list[Task]]:
        seconds = check_lease_seconds(lease_seconds)
        check_max_tasks(max_tasks)
        wish = leases.Wish(seconds, max_tasks, by_tag, tag_text(tag))
        configuration.current()

        def lease() -> list[Task]:
            current = configuration.current()
            leased = leases.lease(current.database, current.queue(self._name), wish)
            return [Task.from_lease(self._name, each) for each in leased]

        return Result(lease)

    def modify_task_lease(self, task: Task, lease_seconds: float) -> None:
        """Let the lease of a task end `lease_seconds` from now (0 to a week); 0 gives the task back.

        Raise TypeError or InvalidLeaseTimeError for a wrong number, TaskLeaseExpiredError if the lease has ended or the task
        was leased again since, TombstonedTaskError if it has ended, and InvalidQueueModeError for a push queue.
        """
        seconds = check_lease_seconds(lease_seconds)
        if not task.name:
            raise BadTaskStateError("a task without a name was not leased")
        current = configuration.current()
        eta_usec = round(task.eta_posix * 1e6)
        task.mark_leased(leases.modify(current.database, current.queue(self._name), task.name, eta_usec, seconds))

    # Statistics -------------------------------------------------------------------------------------------------

    def fetch_statistics_async(self, rpc: None = None) -> Result[Any]:
        """Ask for the state of this queue: `get_result()` returns its QueueStatistics."""
        return QueueStatistics.fetch_async(self, rpc)

    def fetch_statistics(self, deadline: float = _DEADLINE) -> Any:
        """Return the QueueStatistics of this queue."""
        check_deadline(deadline)
        return self.fetch_statistics_async().get_result()

    def _known(self) -> str:
        return configuration.current().queue(self._name).name


def _names_to_delete(tasks: Sequence[Task]) -> list[str]:
    names: list[str] = []
    for task in tasks:
        if not task.name:
            raise BadTaskStateError("a task without a name cannot be deleted")
        if task.was_deleted:
            raise BadTaskStateError(f"the task {task.name} was deleted already")
        if task.name in names:
            raise DuplicateTaskNameError(f"the name {task.name!r} is used twice in one call")
        names.append(task.name)
    return names


class QueueStatistics:
    """The state of a queue at one moment. Those with equal values are equal.

    queue: the Queue. tasks: how many it has, those that run or are leased included.
    oldest_eta_usec: the earliest eta of them, in microseconds since 1970 in UTC; None if there are none.
    executed_last_minute: how many were begun or leased in the last 60 seconds.
    in_flight: how many are running. enforced_rate: tasks per second, less than the queue's rate while its handlers answer
        with 503. Both None for pull queues.
    """

    _ATTRS = ("queue", "tasks", "oldest_eta_usec", "executed_last_minute", "in_flight", "enforced_rate")

    def __init__(
        self,
        queue: Queue,
        tasks: int,
        oldest_eta_usec: int | None = None,
        executed_last_minute: int | None = None,
        in_flight: int | None = None,
        enforced_rate: float | None = None,
    ) -> None:
        self.queue = queue
        self.tasks = tasks
        self.oldest_eta_usec = oldest_eta_usec
        self.executed_last_minute = executed_last_minute
        self.in_flight = in_flight
        self.enforced_rate = enforced_rate

    def _values(self) -> list[Any]:
        return [getattr(self, name) for name in self._ATTRS]

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, QueueStatistics) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"QueueStatistics({', '.join(f'{name}={getattr(self, name)!r}' for name in self._ATTRS)})"

    @classmethod
    def fetch_async(cls, queue_or_queues: Any, rpc: None = None) -> Result[Any]:
        """Ask for the state of queues; see `fetch`."""
        refuse_rpc(rpc)
        is_many = isinstance(queue_or_queues, Iterable) and not isinstance(queue_or_queues, str)
        queues = _queues_of(queue_or_queues if is_many else [queue_or_queues])
        configuration.current()

        def fetch() -> Any:
            current = configuration.current()
            found = rows.fetch_statistics(current.database, [current.queue(queue.name) for queue in queues])
            made = [cls(queue, *each) for queue, each in zip(queues, found, strict=True)]
            return made if is_many else made[0]

        return Result(fetch)

    @classmethod
    def fetch(cls, queue_or_queues: Any, deadline: float = _DEADLINE) -> Any:
        """Return the QueueStatistics of a queue, or a list of those of several, in their order, all of one moment.

        queue_or_queues: a Queue or the name of one, or an iterable of either. Raise TypeError for a mixture.
        """
        check_deadline(deadline)
        if not queue_or_queues:
            return []
        return cls.fetch_async(queue_or_queues).get_result()


def _queues_of(given: Iterable[Any]) -> list[Queue]:
    found = list(given)
    names = [each for each in found if isinstance(each, str)]
    queues = [each for each in found if isinstance(each, Queue)]
    if names and queues:
        raise TypeError("give queues or names of queues, and not both")
    if len(names) + len(queues) < len(found):
        raise TypeError(f"expected queues or names of queues, and found {found!r}")
    return queues or [Queue(name) for name in names]
