"""Calls that are submitted together, all or none."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from procjobs.client import orm_arguments
from procjobs.client.call import AnyCall, resolve
from procjobs.client.connection.submission import submission_of
from procjobs.client.job import Job
from procjobs.errors import ConfigurationError, PayloadError, SupervisorLost
from procjobs.shared.ids import new_id

if TYPE_CHECKING:
    from procjobs.client.connection.connection import Connection
    from procjobs.client.connection.kinds import Kind
    from procjobs.client.connection.submission import Submission, Terms
    from procjobs.client.job import StatusSource
    from procjobs.client.producer import Producer

_TRIES: Final = 3
_FEW: Final = 1000
_TRIES_OF_FEW: Final = 50
"""A few calls have few kinds; that the supervisor forgets them all the time is due to threads that are interrupted."""


class Bulk:
    """Calls that go through a producer together. They can be sent anew as long as no supervisor has them."""

    def __init__(self, producer: Producer, source: StatusSource, calls: Sequence[AnyCall[Any]], terms: Terms) -> None:
        self._producer = producer
        self._source = source
        self._calls = calls
        self._terms = terms

    def submit(self) -> list[Job[Any]]:
        """Submit the calls, and return their handles in order."""
        if not self._calls:
            return []
        link = self._producer.link
        connection = link.connect()
        self._producer.check_room(connection, len(self._calls))
        try:
            return self._submit(connection)
        except SupervisorLost:  # it had gone before the batch was sent whole, so none of its jobs can have run
            return link.persist(self._submit)

    def _submit(self, connection: Connection) -> list[Job[Any]]:
        for _ in range(_TRIES if len(self._calls) > _FEW else _TRIES_OF_FEW):
            jobs: list[Job[Any]] = []
            submissions = list(self._pack_all(connection, jobs))
            if connection.try_submit_many(submissions):
                return jobs
        raise ConfigurationError(
            f"these {len(self._calls)} calls have too many different functions and options: submit them in several parts, "
            "of up to 2,000 different ones"
        )

    def _pack_all(self, connection: Connection, jobs: list[Job[Any]]) -> Iterator[Submission]:
        mark, kinds = object(), dict[tuple[int, int], "Kind"]()
        keep: list[object] = []  # so that no identity is taken over by another object
        looks_for_orm = orm_arguments.ORM in sys.modules
        for number, given in enumerate(self._calls, 1):
            try:
                call, terms = resolve(given, self._terms)
                if looks_for_orm:
                    orm_arguments.refuse(*call)
                options = self._producer.options_of(call[0], terms)
                identity = id(call[0]), id(options)
                kind = kinds.get(identity)
                if kind is None:
                    kind = kinds[identity] = connection.register(call[0], options)
                    keep += call[0], options
                job: Job[Any] = Job(self._source, new_id(), kind.name)
                submission = submission_of(job, kind, options, call, terms)
                connection.pack(submission, mark)
            except (TypeError, ConfigurationError, PayloadError) as error:
                raise _numbered(error, number, len(self._calls)) from error
            jobs.append(job)
            yield submission


def _numbered(error: Exception, number: int, count: int) -> Exception:
    """Return the error with the number of its call."""
    kind = next(kind for kind in (ConfigurationError, PayloadError, TypeError) if isinstance(error, kind))
    return kind(f"call {number} of {count}: {error}; none was submitted")
