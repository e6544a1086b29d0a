"""Jobs that are in the store, and perhaps not in memory: asked for, loaded, found, refused."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from procjobs.clock import NEVER
from procjobs.shared import checkpoints, wire
from procjobs.shared.ids import ID_BYTES, to_text
from procjobs.shared.recorder_wire import LOADED, WINDOW, Cancel, Event, Find, Hooks, Load, RecorderFrame, Repeat
from procjobs.shared.states import FINAL, JobState, Reason
from procjobs.shared.states import Event as Change
from procjobs.shared.wire import BODY, HEADER, U32, Frame, WireError, failure_frame
from procjobs.supervisor.durable.durability import Backlog, LoadedJob, Told

if TYPE_CHECKING:
    from procjobs.host.loop import Loop
    from procjobs.supervisor.job import SupervisedJob, Watcher
    from procjobs.supervisor.registry import Registry

_MAX_LOADED: Final = 5000
"""About how many of the jobs that wait in the store are in memory, too."""
_MAX_LOAD_INTERVAL: Final = 60.0
"""How long a time is waited for at most before the store is asked again: the clock by which it was told may be set."""
_ENDS: Final = {
    JobState.SUCCEEDED: Change.RETURN,
    JobState.FAILED: Change.FAIL,
    JobState.CANCELLED: Change.CANCEL,
    JobState.EXPIRED: Change.EXPIRE,
}
"""The events by which a job that waits here comes to the end that the store knows of it."""


class StoredJobs:
    """Asks the recorder about single jobs, and acts on its answers. `ask` sends it an event.

    `loads_at` is when a job that waits in the store may run, as far as is known (monotonic).
    """

    def __init__(self, registry: Registry, loop: Loop, ask: Callable[[Event], None]) -> None:
        self.loads_at = 0.0
        self._registry = registry
        self._loop = loop
        self._ask = ask
        self._awaited: dict[bytes, list[Watcher]] = {}
        self._questions: dict[int, Callable[[Told], None]] = {}
        self._cancelling: set[bytes] = set()
        self._with_checkpoint: set[bytes] = set()
        self._tokens = 0
        self._waiting: Counter[str | None] = Counter()  # by queue: loaded, and not started yet
        self._is_loading = self._has_code = False

    # Questions --------------------------------------------------------------------------------------------------

    def find(self, job_id: bytes, client: Watcher) -> None:
        """Look a job up that is not known here; the client gets its answer, now or when there is one."""
        self._awaited.setdefault(job_id, []).append(client)
        self._ask(Find(job_id))

    def cancel(self, job_id: bytes, then: Callable[[Told], None]) -> None:
        """Cancel a job that may wait in the store; `then` gets the outcome. Clients that wait for it get their answer."""

        def on_told(told: Told) -> None:
            self._cancelling.discard(job_id)
            if told["cancelled"] and job_id in self._awaited:
                self._ask(Find(job_id))
            then(told)

        self._cancelling.add(job_id)
        self._ask(Cancel(job_id, self.next_question(on_told)))

    def repeat(self, job_id: bytes, new_id: bytes, then: Callable[[Told], None]) -> None:
        """Have a new job made of one that ended otherwise than well; `then` gets {"known", "refusal", "name"}."""
        self._ask(Repeat(job_id, new_id, self.next_question(then)))

    def find_marked(self, max_jobs: int, then: Callable[[Told], None]) -> None:
        """Look for jobs for which hooks are still to be called; `then` gets {"records", "has_more"}."""
        self._ask(Hooks(max_jobs, self.next_question(then)))

    def next_question(self, on_told: Callable[[Told], None]) -> int:
        """Return the token of a question that is about to be asked; `on_told` gets its answer, once."""
        self._tokens += 1
        self._questions[self._tokens] = on_told
        return self._tokens

    # Loading ----------------------------------------------------------------------------------------------------

    def load_more(self, backlog: Callable[[int], Backlog], max_queued: int) -> None:
        """Ask for jobs that wait in the store, as many as there is room for in memory.

        Jobs that clients have submitted since take no room from those, which are older. Nor do jobs that wait here for a
        time, or in great number for the limits of their queue, unless they are more than clients may submit. No more jobs
        of such a queue are asked for.
        """
        if self._is_loading or self.loads_at > self._loop.now:
            return
        limit = min(max_queued, _MAX_LOADED)
        scheduled, saturated = backlog(max(limit // 4, 1))
        aside = scheduled + sum(saturated.values())
        waiting = self._waiting.total() - sum(self._waiting[queue] for queue in saturated) + max(aside - max_queued, 0)
        if waiting <= limit // 2:
            self._is_loading = True
            self._ask(Load(limit - waiting, max(limit - scheduled, 0), list(saturated)))

    def note_code(self, *, has_code: bool) -> None:
        """Note whether there is code to run jobs with: a pool that no client has come to leaves them in the store."""
        self._has_code = has_code

    @property
    def awaits_load(self) -> bool:
        """Whether a job is known to wait in the store alone, or may do so, and could be run here."""
        return self._has_code and self.loads_at < NEVER

    def look_again(self) -> None:
        """Ask for jobs soon: one may wait in the store of which that was not known."""
        self.loads_at = self._loop.now

    def count_in(self, job: SupervisedJob) -> None:
        """Note that a job was loaded and waits for a worker."""
        assert job.durable is not None
        job.durable.is_counted = True
        self._waiting[job.kind.options.queue] += 1

    def count_out(self, job: SupervisedJob) -> None:
        """Note that a job is started, or has ended: one that was loaded makes room for another one."""
        if job.durable is not None and job.durable.is_counted:
            job.durable.is_counted = False
            self._waiting[job.kind.options.queue] -= 1

    # Answers ----------------------------------------------------------------------------------------------------

    def take(self, kind: int, raw: bytes, fd: int | None) -> list[LoadedJob] | None:
        """Act on a frame of the recorder, and return the job that it brings; None for a frame that is about no job."""
        if kind == RecorderFrame.LOADED:
            return self._on_loaded(raw, fd)
        if kind == RecorderFrame.RESTORE:
            self._on_checkpoint(raw[BODY:], fd)
            return []
        if kind == RecorderFrame.FOUND:
            self._on_found(raw, fd)
            return []
        if fd is not None:
            os.close(fd)
            raise WireError(f"a frame of kind {kind} with a descriptor")
        act_on = {
            int(RecorderFrame.HELD): self._on_held,
            int(RecorderFrame.REFUSED): self._on_refused,
            int(RecorderFrame.TOLD): self._on_told,
            int(RecorderFrame.WINDOW): self._on_window,
        }.get(kind)
        if act_on is None:
            return None
        act_on(raw)
        return []

    def _on_checkpoint(self, job_id: bytes, fd: int | None) -> None:
        """Put the checkpoint of a job that comes next where its worker looks for it."""
        if fd is None or len(job_id) != ID_BYTES:
            raise WireError("a checkpoint of no job, or without its data")
        data = os.pread(fd, checkpoints.MAX_BYTES, 0)
        os.close(fd)
        if self._registry.save_checkpoint(job_id, data):
            self._with_checkpoint.add(job_id)

    def _take_checkpoint(self, job: SupervisedJob) -> None:
        if job.id in self._with_checkpoint:
            self._with_checkpoint.discard(job.id)
            self._registry.note_checkpoint(job)

    def _on_window(self, raw: bytes) -> None:
        (seconds,) = WINDOW.unpack_from(raw, BODY)
        self.loads_at = self._loop.now + (NEVER if seconds == NEVER else min(seconds, _MAX_LOAD_INTERVAL))
        self._is_loading = False

    def _on_refused(self, raw: bytes) -> None:
        job_id, text = raw[BODY : BODY + ID_BYTES], raw[BODY + ID_BYTES :].decode(errors="replace")
        job = self._registry.jobs.get(job_id)
        if job is None or job.state in FINAL:
            return  # said again by a recorder whose predecessor was killed before the commit was told
        job.advance(Change.REJECT)
        self._finish(job, Reason.REJECTED, failure_frame(job_id, "StoreUnavailable", text), None, text)

    def _on_held(self, raw: bytes) -> None:
        """Take over the attempts that the store knows of a job that was sent again."""
        told = wire.parse_json(raw[BODY + ID_BYTES :])
        job = self._registry.jobs[raw[BODY : BODY + ID_BYTES]]
        _take_over(job, int(told["attempt"]), int(told["cut_off"]), int(told["crashes"]))
        self._take_checkpoint(job)

    def _on_found(self, raw: bytes, fd: int | None) -> None:
        job_id = raw[BODY : BODY + ID_BYTES]
        (length,) = U32.unpack_from(raw, BODY + ID_BYTES)
        start = BODY + ID_BYTES + U32.size
        state, frame = wire.parse_json(raw[start : start + length])["state"], raw[start + length :]
        job = self._registry.jobs.get(job_id)
        clients = self._awaited.pop(job_id, [])
        if state is None and job is None:
            text = f"job {to_text(job_id)} is not known to this pool, nor to its store"
            frame = failure_frame(job_id, "UnknownJob", text)
        elif not frame:
            self._wait_on(job_id, job, clients)
            return
        if frame[4] != Frame.FINISHED or HEADER.unpack_from(frame)[2] != (fd is not None):
            raise WireError("an answer from the store makes no sense")
        if job is not None and job.durable is not None and not job.durable.is_committed and job.state not in FINAL:
            copy = None if fd is None else os.dup(fd)
            job.advance(_ENDS[JobState(state)])
            self._finish(job, Reason.NONE, frame, copy, "")
        _send_recalled(clients, frame, fd)

    def _finish(self, job: SupervisedJob, reason: Reason, frame: bytes, fd: int | None, error: str) -> None:
        """End a job that the core has never had."""
        self._registry.finish(job, reason, frame, fd, error, self._loop.now)

    def _wait_on(self, job_id: bytes, job: SupervisedJob | None, clients: list[Watcher]) -> None:
        if job is None:  # it waits in the store; the clients wait until it is loaded
            self._awaited.setdefault(job_id, []).extend(clients)
            return
        for client in clients:
            if not client.closed:
                self._registry.watch(client, job)

    def _on_told(self, raw: bytes) -> None:
        told = wire.parse_json(raw[BODY:])
        then = self._questions.pop(int(told["token"]), None)
        if then is not None:  # not said again, see _on_refused
            then(told)

    def _on_loaded(self, raw: bytes, fd: int | None) -> list[LoadedJob]:
        fields = LOADED.unpack_from(raw, BODY)
        job_id, attempt, interrupted, crashes, submitted_at, not_before, expires_at, retry_of, moment, *lengths = fields
        key, meta, schedule, description, function, inline = _cut(raw[BODY + LOADED.size :], lengths)
        known = self._registry.jobs.get(job_id)
        if known is not None:  # sent again by its client before this was read
            _take_over(known, attempt, interrupted, crashes)
            self._take_checkpoint(known)
            if fd is not None:
                os.close(fd)
            return []
        loaded = LoadedJob(
            job_id, attempt, interrupted, crashes, submitted_at, not_before, expires_at,
            key, description, function, inline, fd, job_id in self._cancelling, meta, retry_of,
            job_id in self._with_checkpoint, schedule, moment,
        )  # fmt: skip
        self._with_checkpoint.discard(job_id)
        return [loaded]

    def on_admitted(self, job: SupervisedJob) -> None:
        """Let the clients that have waited for a job until it was loaded wait for its answer."""
        self._wait_on(job.id, job, self._awaited.pop(job.id, []))


def _cut(data: bytes, lengths: list[int]) -> list[bytes]:
    """Return the parts of these lengths, and the rest."""
    parts, position = [], 0
    for length in lengths:
        parts.append(data[position : position + length])
        position += length
    return [*parts, data[position:]]


def _take_over(job: SupervisedJob, attempt: int, interrupted: int, crashes: int) -> None:
    """Let a job that waits for its commit go on from the attempts that the store knows."""
    if job.durable is not None and not job.durable.is_committed:
        job.attempt, job.interrupted, job.crashes = attempt, interrupted, crashes


def _send_recalled(clients: list[Watcher], frame: bytes, fd: int | None) -> None:
    for client in clients:
        if client.closed:
            continue
        if fd is None:
            client.queue_frame(frame)
        else:
            client.queue_recalled(frame, os.dup(fd))
    if fd is not None:
        os.close(fd)
