"""Jobs that are the only one of their key: a client that asks for another one gets the one there is.

A client claims the key first, under the id that its job is to have. Either the key is its own, for the submission that
follows, or it gets the id of the job that has it. With a store, the database is asked before a key is given away: the job
may be one of an earlier supervisor, and not loaded yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from procjobs.clock import wall
from procjobs.shared.ids import from_text, to_text
from procjobs.shared.states import FINAL
from procjobs.shared.wire import failure_frame

if TYPE_CHECKING:
    from procjobs.supervisor.clients.client_link import ClientLink
    from procjobs.supervisor.durable.durability import Durability, Told
    from procjobs.supervisor.job import SupervisedJob
    from procjobs.supervisor.registry import Registry

_SUBMISSION_TIMEOUT: Final = 30.0
"""How long a key is kept for a submission that does not come: its client has died, or could not pickle the call."""
_MAX_HOLDERS: Final = 10_000
"""From this number of keys on, the keys that nobody holds any more are looked for and forgotten."""

Tell = Callable[[bytes], None]


class _Holder:
    """The holder of a key: until its job has ended, and `until` (Unix time); before it is submitted, until `expected_by`."""

    __slots__ = ("client", "expected_by", "job_id", "seconds", "until", "watchers")

    def __init__(self, client: ClientLink, job_id: bytes, seconds: float, expected_by: float) -> None:
        self.client = client
        self.watchers: list[ClientLink] = []
        self.job_id = job_id
        self.seconds = seconds
        self.expected_by = expected_by
        self.until = 0.0


class UniqueKeys:
    """Which job has which key for itself."""

    def __init__(self, registry: Registry, durability: Durability) -> None:
        self._registry = registry
        self._durability = durability
        self._holders: dict[bytes, _Holder] = {}
        self._expected: dict[bytes, bytes] = {}  # the keys of jobs whose submissions are under way
        self._asking: dict[bytes, list[tuple[ClientLink, bytes, float, Tell]]] = {}

    def claim(self, client: ClientLink, key: bytes, job_id: bytes, seconds: float, tell: Tell) -> None:
        """Give `tell` the id of the job that holds a key: the given one, if no other job does."""
        holder = self._holder(key)
        if holder is not None:
            tell(holder.job_id)
        elif key in self._asking:
            self._asking[key].append((client, job_id, seconds, tell))
        elif self._durability.ask_key(key, lambda told: self._on_told(key, told)):
            self._asking[key] = [(client, job_id, seconds, tell)]
        else:
            self._give(client, key, job_id, seconds)
            tell(job_id)

    def _on_told(self, key: bytes, told: Told) -> None:
        known = None if told["id"] is None else from_text(told["id"])
        for client, job_id, seconds, tell in self._asking.pop(key):
            if known is None and not client.closed:
                known = job_id
                self._give(client, key, job_id, seconds)
            tell(known or job_id)

    def try_watch(self, client: ClientLink, job_id: bytes) -> bool:
        """Let a client have the answer of a job whose submission is under way; return False if none is."""
        key = self._expected.get(job_id)
        if key is None:
            return False
        self._holders[key].watchers.append(client)
        return True

    def release(self, job_id: bytes) -> None:
        """Give back a key whose job will not be submitted."""
        key = self._expected.pop(job_id, None)
        holder = None if key is None else self._holders.pop(key)
        text = f"job {to_text(job_id)}, which has the key, was not submitted"
        for watcher in holder.watchers if holder is not None else ():
            if not watcher.closed:
                watcher.queue_frame(failure_frame(job_id, "UnknownJob", text))

    def forget_client(self, client: ClientLink) -> None:
        """Give back the keys of the jobs that a client was about to submit when it went away."""
        for job_id in [job_id for job_id, key in self._expected.items() if self._holders[key].client is client]:
            self.release(job_id)

    def _give(self, client: ClientLink, key: bytes, job_id: bytes, seconds: float) -> None:
        if len(self._holders) >= _MAX_HOLDERS:
            for other in list(self._holders):
                self._holder(other)
        self._holders[key] = _Holder(client, job_id, seconds, wall() + _SUBMISSION_TIMEOUT)
        self._expected[job_id] = key

    def settle(self, job: SupervisedJob, now: float) -> float | None:
        """Note that a job was submitted; return until when its key is its own (Unix time), None if it is not."""
        holder = self._holders.get(job.key)
        if not job.key or holder is None or holder.job_id != job.id:
            return None
        # Without a time of its own it is held until the job has ended, also where the clock is set back meanwhile.
        holder.until = now + holder.seconds if holder.seconds else 0.0
        holder.expected_by = 0.0
        self._expected.pop(job.id, None)
        for watcher in holder.watchers:
            if not watcher.closed:
                self._registry.watch(watcher, job)
        holder.watchers.clear()
        return holder.until

    def _holder(self, key: bytes) -> _Holder | None:
        """Return the holder of a key; forget one that does not hold it any more."""
        holder = self._holders.get(key)
        if holder is None:
            return None
        job, now = self._registry.jobs.get(holder.job_id), wall()
        is_unfinished = job is not None and job.state not in FINAL
        if is_unfinished or holder.until > now or holder.expected_by > now:
            return holder
        self.release(holder.job_id)
        self._holders.pop(key, None)
        return None
