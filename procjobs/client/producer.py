"""From a call to a job at the supervisor: its options, whether there is room for it, and the key that is its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from procjobs.client import orm_arguments
from procjobs.client.connection.connection import REQUEST_TIMEOUT
from procjobs.client.connection.state import OPEN
from procjobs.client.connection.submission import Call, Terms, submission_of
from procjobs.client.job import Job, StatusSource
from procjobs.clock import monotonic
from procjobs.errors import ConfigurationError, JobTimeout, QueueFull, SubmitTimeout, SupervisorLost
from procjobs.shared.function_names import OPTIONS_ATTRIBUTE
from procjobs.shared.ids import new_id
from procjobs.shared.queues import refuse_queue

if TYPE_CHECKING:
    from procjobs.client.connection.connection import Connection
    from procjobs.client.link import PoolLink
    from procjobs.shared.config import JobOptions

_MAX_UNCHECKED: Final = 100
"""The most submissions between two looks at how many jobs wait."""
_CHECK_INTERVAL: Final = 0.001
_MAX_CACHED_OPTIONS: Final = 1000


class Producer:
    """Submits calls over the link of a pool."""

    def __init__(self, link: PoolLink) -> None:
        self.link = link
        self._defaults = link.plan.job_defaults
        self._cached_options: dict[Any, JobOptions] = {}
        self._unchecked_until, self._check_due_at = 0, 0.0

    @property
    def default_timeout(self) -> float | None:
        """The timeout of jobs that say nothing else."""
        return self._defaults.timeout

    def submit(self, source: StatusSource, call: Call, terms: Terms) -> Job[Any]:
        """Submit a call; return its handle."""
        fn = call[0]
        if not callable(fn):
            raise TypeError(f"{fn!r} cannot be called; submit() takes a function and its arguments")
        if orm_arguments.ORM in sys.modules:
            orm_arguments.refuse(*call)
        link = self.link
        connection = link.connection
        if connection is None or connection.lifecycle.state is not OPEN or link.closed:
            connection = link.connect()
        options = self._defaults
        own = getattr(fn, OPTIONS_ATTRIBUTE, None)
        if own or terms.changes:
            options = self.merged_options(own or {}, terms.changes)
        if connection.sent >= self._unchecked_until or monotonic() >= self._check_due_at:
            self._check_capacity(connection)
        try:
            return _submit(connection, source, call, terms, options)
        except SupervisorLost:  # it had gone before the job was sent whole, so the job cannot have run
            return link.persist(lambda successor: _submit(successor, source, call, terms, options))

    # Unique jobs ------------------------------------------------------------------------------------------------

    def submit_unique(self, source: StatusSource, call: Call, terms: Terms) -> Job[Any]:
        """Submit a call, and wait until it is known whether it is the only one of its key; if not, return that one's handle.

        Raise SubmitTimeout if the pool cannot tell that soon; the job is cancelled then.
        """
        job = self.submit(source, call, terms)
        try:
            job.wait_accepted(REQUEST_TIMEOUT)
        except SupervisorLost:
            if job.holder is None:
                raise
        except JobTimeout:  # that of the job which submits this one
            job.cancel()
            raise
        except TimeoutError:
            job.cancel()
            raise SubmitTimeout(
                f"{self.link.label} did not say within {REQUEST_TIMEOUT:g} s whether another job has the key; the job was "
                "cancelled. Is the pool's store away?"
            ) from None
        except BaseException:
            job.cancel()  # nobody has its handle
            raise
        return job if job.holder is None else self.link.watch(Job(source, job.holder, job.name))

    # Options ----------------------------------------------------------------------------------------------------

    def merged_options(self, own: Mapping[str, Any], changes: Mapping[str, Any]) -> JobOptions:
        """Return the options of a job: one object for the same ones, so that the connection recognises it."""
        merged = {**own, **changes}
        key = tuple(sorted(merged.items()))
        options = self._cached_options.get(key)
        if options is None:
            if len(self._cached_options) > _MAX_CACHED_OPTIONS:
                self._cached_options.clear()
            options = self._cached_options[key] = self._defaults.but(merged)
            self._check_queue(options)
        return options

    def check_options(self, changes: Mapping[str, Any]) -> None:
        """Raise ConfigurationError for options that no job can have."""
        self._check_queue(self._defaults.but(changes))

    def _check_queue(self, options: JobOptions) -> None:
        """Raise ConfigurationError for a queue that the pool does not have, as far as is known here."""
        connection = self.link.connection
        if options.queue is not None and connection is not None:
            rejection = refuse_queue(options.queue, connection.welcome["settings"].get("queues", {}), self.link.name)
            if rejection:
                raise ConfigurationError(rejection)

    def options_of(self, fn: object, terms: Terms) -> JobOptions:
        """Return the options of a job."""
        own = getattr(fn, OPTIONS_ATTRIBUTE, None)
        return self.merged_options(own or {}, terms.changes) if own or terms.changes else self._defaults

    # Capacity ---------------------------------------------------------------------------------------------------

    def _check_capacity(self, connection: Connection) -> None:
        """Raise QueueFull if the pool has as many waiting jobs as it takes.

        The counters are exact for what has been acknowledged. Near the bound, submissions under way may or may not be among
        them, and their acknowledgement is waited for. Far from it, the next look is due after some submissions or a
        millisecond: a look costs 2 us, and the supervisor has the last word.
        """
        max_queued = connection.welcome["settings"]["max_queued"]
        waiting = self._count_waiting()
        if waiting < max_queued <= waiting + connection.unaccepted():
            connection.wait_all_accepted(self.link.plan.client.submit_timeout)
            waiting = self._count_waiting()
        capacity = max_queued - waiting - connection.unaccepted()
        self._unchecked_until = connection.sent + min(capacity // 8, _MAX_UNCHECKED)
        self._check_due_at = monotonic() + _CHECK_INTERVAL
        if waiting >= max_queued:
            raise QueueFull(
                f"{self.link.label} has {waiting} jobs waiting, as many as max_queued allows; try again later",
                queued=waiting,
                max_queued=max_queued,
                estimated_wait=self.link.read_table().counters().estimated_wait,
            )

    def check_room(self, connection: Connection, count: int) -> None:
        """Raise QueueFull if there is no room for this many jobs; the supervisor has the last word."""
        max_queued, waiting = connection.welcome["settings"]["max_queued"], self._count_waiting()
        if waiting + connection.unaccepted() + count > max_queued:
            connection.wait_all_accepted(self.link.plan.client.submit_timeout)
            waiting = self._count_waiting()
        if waiting + count > max_queued:
            raise QueueFull(
                f"{self.link.label} has {waiting} jobs waiting, and max_queued={max_queued} has no room for {count} more; "
                "none was submitted",
                queued=waiting,
                max_queued=max_queued,
                estimated_wait=self.link.read_table().counters().estimated_wait,
            )

    def _count_waiting(self) -> int:
        counters = self.link.read_table().counters()
        return counters.queued + counters.scheduled


def _submit(connection: Connection, source: StatusSource, call: Call, terms: Terms, options: JobOptions) -> Job[Any]:
    kind = connection.register(call[0], options)
    job: Job[Any] = Job(source, new_id(), kind.name, terms.meta)
    connection.submit(submission_of(job, kind, options, call, terms))
    return job
