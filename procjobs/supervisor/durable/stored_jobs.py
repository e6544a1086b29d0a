"""What the recorder tells about jobs that are in the store, and perhaps in nobody's memory: loaded, found, held, refused."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from procjobs.clock import wall
from procjobs.shared import wire
from procjobs.shared.ids import ID_BYTES, to_text
from procjobs.shared.recorder_wire import LOADED, Cancel, Event, Find, Key, RecorderFrame
from procjobs.shared.states import FINAL, JobState, Reason
from procjobs.shared.wire import BODY, HEADER, U32, Frame, WireError, finished_frame
from procjobs.supervisor.durable.recorder_link import Recalled

if TYPE_CHECKING:
    from procjobs.dispatch.model import Job
    from procjobs.supervisor.clients.client_link import ClientLink
    from procjobs.supervisor.clients.requests import ClientDesk
    from procjobs.supervisor.supervisor import Supervisor


class Durable:
    """What a job in the store has more than others: how often a supervisor's end cut it off, and what it waits for."""

    __slots__ = ("cut_off", "delay", "expires", "is_cancelled", "is_committed", "is_counted", "submitted_at")

    def __init__(self, *, delay: float = 0.0, expires: float = 0.0, submitted_at: float = 0.0) -> None:
        self.cut_off = 0
        self.delay = delay
        self.expires = expires
        self.submitted_at = submitted_at
        self.is_committed = False
        self.is_cancelled = self.is_counted = False


class StoredJobs:
    """Takes what the recorder says about single jobs; `ask` is what puts a question to it."""

    def __init__(self, supervisor: Supervisor, desk: ClientDesk, ask: Callable[[Event], None]) -> None:
        self._supervisor = supervisor
        self._desk = desk
        self._ask = ask
        self._awaited: dict[bytes, list[ClientLink]] = {}
        self._questions: dict[int, Callable[[dict[str, Any]], None]] = {}
        self._tokens = 0
        self._began_at = wall()
        self.waiting: Counter[str | None] = Counter()  # by queue: those that were loaded, and have not been started

    def _count_in(self, job: Job) -> None:
        assert job.durable is not None
        job.durable.is_counted = True
        self.waiting[job.kind.options.queue] += 1

    def count_out(self, job: Job) -> None:
        """Note that a job is started, or has ended: one that was loaded makes room for another one."""
        if job.durable is not None and job.durable.is_counted:
            job.durable.is_counted = False
            self.waiting[job.kind.options.queue] -= 1

    def take(self, kind: int, raw: bytes, fd: int | None) -> bool:
        """Act on a frame of the recorder; return False if it is about no single job."""
        if kind == RecorderFrame.LOADED:
            self._on_loaded(raw, fd)
        elif kind == RecorderFrame.FOUND:
            self._on_found(raw, fd)
        elif fd is not None:
            os.close(fd)
            raise WireError(f"a frame of kind {kind} with a descriptor")
        elif kind == RecorderFrame.HELD:
            self._on_held(raw)
        elif kind == RecorderFrame.REFUSED:
            self._on_refused(raw)
        elif kind == RecorderFrame.TOLD:
            self._on_told(raw)
        else:
            return False
        return True

    def find(self, job_id: bytes, client: ClientLink) -> None:
        """Look a job up that is not known here; the client gets its answer, now or when there is one."""
        waiting = self._awaited.setdefault(job_id, [])
        waiting.append(client)
        self._ask(Find(job_id))

    def question(self, event: type[Cancel | Key], subject: bytes, then: Callable[[dict[str, Any]], None]) -> None:
        """Ask the recorder; `then` gets what it tells."""
        self._tokens += 1
        self._questions[self._tokens] = then
        self._ask(event(subject, self._tokens))

    def cancel(self, job_id: bytes, client: ClientLink, number: int) -> None:
        """Cancel a job that may wait in the store; the reply comes later."""

        def reply(told: dict[str, Any]) -> None:
            was_cancelled, job = bool(told["cancelled"]), self._desk.jobs.get(job_id)
            if was_cancelled and job_id in self._awaited:
                self._ask(Find(job_id))
            elif not was_cancelled and job is not None:  # it was loaded in the meantime
                was_cancelled = self._desk.cancel(job)
            self._desk.reply(client, number, {"known": bool(told["known"]), "cancelled": was_cancelled})

        self.question(Cancel, job_id, reply)

    def _on_refused(self, raw: bytes) -> None:
        job_id, text = raw[BODY : BODY + ID_BYTES], raw[BODY + ID_BYTES :].decode(errors="replace")
        job = self._desk.jobs.get(job_id)
        if job is None or job.state in FINAL:
            return  # said again by a recorder whose predecessor was killed before the commit was told
        self._conclude(job, JobState.FAILED, Reason.REJECTED, verdict_frame(job_id, "StoreUnavailable", text), None, text)

    def _on_held(self, raw: bytes) -> None:
        """Take over what the store knew of a job that was sent again: its attempts."""
        job, told = self._desk.jobs[raw[BODY : BODY + ID_BYTES]], wire.parse_json(raw[BODY + ID_BYTES :])
        _take_over(job, int(told["attempt"]), int(told["cut_off"]), int(told["crashes"]))

    def _on_found(self, raw: bytes, fd: int | None) -> None:
        job_id = raw[BODY : BODY + ID_BYTES]
        (length,) = U32.unpack_from(raw, BODY + ID_BYTES)
        start = BODY + ID_BYTES + U32.size
        state, frame = wire.parse_json(raw[start : start + length])["state"], raw[start + length :]
        job = self._desk.jobs.get(job_id)
        waiting = self._awaited.pop(job_id, [])
        if state is None and job is None:
            frame = verdict_frame(job_id, "UnknownJob", f"job {to_text(job_id)} is not known to this pool, nor to its store")
        elif not frame:
            self._wait_on(job_id, job, waiting)
            return
        if frame[4] != Frame.FINISHED or HEADER.unpack_from(frame)[2] != (fd is not None):
            raise WireError("an answer from the store is none")
        if job is not None and job.durable is not None and not job.durable.is_committed and job.state not in FINAL:
            copy = None if fd is None else os.dup(fd)
            self._conclude(job, JobState(state), Reason.NONE, frame, copy, "")
        self._send_recalled(job_id, waiting, frame, fd)

    def _send_recalled(self, job_id: bytes, clients: list[ClientLink], frame: bytes, fd: int | None) -> None:
        for client in clients:
            if client.closed:
                continue
            if fd is None:
                client.outgoing.append(frame)
            else:
                client.outgoing.append(Recalled(job_id, frame, os.dup(fd), self._supervisor.now))  # type: ignore[arg-type]
        if fd is not None:
            os.close(fd)

    def _wait_on(self, job_id: bytes, job: Job | None, clients: list[ClientLink]) -> None:
        if job is None:  # it waits in the store; these wait until it is loaded
            self._awaited.setdefault(job_id, []).extend(clients)
            return
        for client in clients:
            if not client.closed:
                self._desk.watch(client, job)

    def _conclude(
        self, job: Job, state: JobState, reason: Reason, frame: bytes, fd: int | None, error: str
    ) -> None:
        """End a job that the dispatcher has never had."""
        job.state = state
        self._supervisor.answer(job, reason, frame, fd, error)

    def _on_told(self, raw: bytes) -> None:
        told = wire.parse_json(raw[BODY:])
        then = self._questions.pop(int(told["token"]), None)
        if then is not None:  # not said again, see _on_refused
            then(told)

    def _on_loaded(self, raw: bytes, fd: int | None) -> None:
        fields = LOADED.unpack_from(raw, BODY)
        job_id, attempt, cut_off, crashes, submitted_at, not_before, expires_at, *lengths = fields
        parts, position = [], BODY + LOADED.size
        for length in lengths:
            parts.append(raw[position : position + length])
            position += length
        key, description, function = parts
        known = self._desk.jobs.get(job_id)
        if known is not None:  # sent again by its client before this was read
            _take_over(known, attempt, cut_off, crashes)
            if fd is not None:
                os.close(fd)
            return
        job, problem = self._desk.take_loaded(job_id, description, function, raw[position:], fd)
        moment, now = wall(), self._supervisor.now
        job.durable = durable = Durable()
        durable.is_committed = True
        durable.cut_off = cut_off
        job.attempt, job.crashes, job.key = attempt, crashes, key
        expires = (expires_at - moment or -1.0) if expires_at and not attempt else 0.0
        delay = max(not_before - moment, 0.0) if not_before else 0.0
        problem = self._supervisor.publish_loaded(job, submitted_at, is_scheduled=delay > 0) or problem
        self._wait_on(job_id, job, self._awaited.pop(job_id, []))
        if problem:
            self._supervisor.dispatcher.reject(job, "PayloadError", problem, {})
        else:
            if not delay:
                self._count_in(job)
            if submitted_at < self._began_at:
                job.rank += 0.5
            self._supervisor.dispatcher.submit(job, now, delay=delay, expires=expires)


def _take_over(job: Job, attempt: int, cut_off: int, crashes: int) -> None:
    """Let a job that waits for its commit go on from what the store knows of it."""
    if job.durable is not None and not job.durable.is_committed:
        job.attempt, job.durable.cut_off, job.crashes = attempt, cut_off, crashes


def verdict_frame(job_id: bytes, error: str, text: str) -> bytes:
    """Return an answer that the supervisor gives by itself."""
    return finished_frame(job_id, wire.Outcome.VERDICT, 0, 0, 0.0, {"error": error, "message": text})
