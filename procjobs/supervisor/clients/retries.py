"""Jobs that are repeated by their id: a new job with the call of one that ended otherwise than well.

The client chooses the id of the new job, so that a call that was not answered can be made again. With a store, the recorder
makes the new job in one transaction, out of the row of the old one; it is loaded like any job that waits there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from procjobs.dispatch.failures import job_name
from procjobs.shared.ids import ID_BYTES, to_text
from procjobs.supervisor.job import NO_CLIENT, SupervisedJob
from procjobs.supervisor.kept_calls import can_be_repeated

if TYPE_CHECKING:
    from procjobs.dispatch.dispatcher import Dispatcher
    from procjobs.dispatch.model import Generation
    from procjobs.supervisor.clients.admission import Admission
    from procjobs.supervisor.clients.unique_keys import UniqueKeys
    from procjobs.supervisor.durable.durability import Durability, Told
    from procjobs.supervisor.registry import Registry


class Retries:
    """Repeats jobs, or says why not."""

    def __init__(
        self, pool: str, registry: Registry, dispatcher: Dispatcher, durability: Durability, admission: Admission,
        unique_keys: UniqueKeys,
    ) -> None:  # fmt: skip
        self._pool = pool
        self._registry = registry
        self._dispatcher = dispatcher
        self._durability = durability
        self._admission = admission
        self._unique_keys = unique_keys

    def repeat(self, job_id: bytes, new_id: bytes, then: Callable[[Told], None]) -> None:
        """Submit a job again, under another id. `then` gets {"known", "refusal", "name"}."""
        if len(new_id) != ID_BYTES:
            raise ValueError("an id that is none")
        if not self._admission.is_open:
            then(_told(f"pool {self._pool!r} is stopping and takes no more jobs"))
        elif len(job_id) != ID_BYTES or not self._durability.repeat(job_id, new_id, then):
            then(self._repeat(self._registry.jobs.get(job_id), new_id))

    def _repeat(self, job: SupervisedJob | None, new_id: bytes) -> Told:
        if job is None:
            return {"known": False, "refusal": "", "name": ""}
        name = job.kind.name.decode(errors="replace")
        if new_id in self._registry.jobs:  # asked once more
            return _told("", name)
        refusal = self._refusal(job)
        if not refusal:
            self._submit(job, new_id)
        return _told(refusal, name)

    def _refusal(self, job: SupervisedJob) -> str:
        """Return why a job cannot be repeated, empty if it can."""
        if not can_be_repeated(job.state) or job.answer is None:
            return f"{job_name(job)} is {job.state.text}: only jobs that failed, expired or were cancelled are repeated"
        if job not in self._registry.calls:
            return f"the call of {job_name(job)} is not kept any more: there was no room for it"
        if not self._dispatcher.generations:
            return f"pool {self._pool!r} has no code yet to run {job_name(job)} with"
        holder = self._unique_keys.holder(job.key) if job.extras.is_unique else None
        if holder is not None:
            return f"job {to_text(holder)} has the key of {job_name(job)}, which is to be the only one that has it"
        return ""

    def _submit(self, job: SupervisedJob, new_id: bytes) -> None:
        fd = None if job.fd is None else os.dup(job.fd)
        new = SupervisedJob(new_id, job.kind, self._generation_of(job), NO_CLIENT, job.inline, fd)
        new.key = job.key
        new.extras = job.extras._replace(retry_of=job.id, failure=(0, 0))
        self._registry.copy_checkpoint(new, job)
        self._admission.admit(NO_CLIENT, new, 0.0, 0.0, 0.0 if job.extras.is_unique else None)

    def _generation_of(self, job: SupervisedJob) -> Generation:
        newest, present = job.generation.newest(), self._dispatcher.generations
        return newest if newest in present else present[-1]


def _told(refusal: str, name: str = "") -> Told:
    return {"known": True, "refusal": refusal, "name": name}
