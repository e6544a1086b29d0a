"""One process's connection to a supervisor: frames out from any thread, answers in on one receiver thread.

1. What is sent under the lock is sent whole, or its rest is kept and sent before anything else.
2. The receiver thread only moves bytes: it unpickles nothing and runs no code of a job.
3. A job is entered before its frame is sent, so its answer always finds it.
4. The receiver thread ends the connection: it settles every handle, or sees it go to a successor (`unacknowledged`).
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from procjobs.client.connection import unacknowledged
from procjobs.client.connection.kinds import KindRegistry, Registered
from procjobs.client.connection.requests import REQUEST_TIMEOUT, Asker
from procjobs.client.connection.unacknowledged import Submission, Unacknowledged
from procjobs.client.job import Job
from procjobs.clock import monotonic
from procjobs.errors import PayloadError, PoolClosed, SupervisorLost, SupervisorRefused
from procjobs.host import payload
from procjobs.shared import wire
from procjobs.shared.config import JobOptions
from procjobs.shared.ids import ID_BYTES
from procjobs.shared.wire import BODY, FINISHED_FRAME, SUBMIT_FRAME, Frame, FrameReader, WireError

if TYPE_CHECKING:
    from procjobs.shared.table.post_mortem import PostMortemTable

_FD_SPACE: Final = socket.CMSG_SPACE(253 * 4)
_READ_BYTES: Final = 64 * 1024  # see procjobs.supervisor.clients.client_link
_CLOEXEC: Final = int(socket.MSG_CMSG_CLOEXEC)
_SUBMIT: Final = int(Frame.SUBMIT)
_FINISHED: Final = int(Frame.FINISHED)


class Connection(Asker):
    """A connection that has said hello. It serves the process that made it; a forked child makes its own."""

    def __init__(self, sock: socket.socket, directory: str, *, submit_timeout: float) -> None:
        super().__init__(sock, submit_timeout)
        self._directory = directory
        self.pid = os.getpid()
        self.welcome: dict[str, Any] = {}
        self.table: PostMortemTable | None = None
        self._reader = FrameReader()
        self._fds: deque[int] = deque()
        self._kinds = KindRegistry()
        self._jobs: dict[bytes, Job[Any]] = {}
        self._unacknowledged = Unacknowledged()
        self.sent = 0
        self._closing = False
        self._closes_when_idle = False
        self._will_end = self._has_ended = False
        self.on_notice: Callable[[str | None], None] = _ignore

    def say_hello(self, generation: str, spec_fd: int, executable: str) -> None:
        """Introduce this process; raise SupervisorRefused or SupervisorLost if that does not end in a welcome."""
        text = json.dumps({"pid": self.pid, "generation": generation, "executable": executable}).encode()
        body = wire.MAGIC + wire.WIRE_VERSION.to_bytes(2, "little") + text
        try:
            socket.send_fds(self._socket, [wire.frame(Frame.HELLO, body, descriptors=1)], [spec_fd])
            self._socket.settimeout(REQUEST_TIMEOUT)
            while not self.welcome:
                data = self._socket.recv(_READ_BYTES)
                if not data:
                    raise SupervisorLost("the supervisor closed the connection instead of a welcome; see the pool's log")
                for kind, raw, _ in self._reader.feed(data):
                    if kind == Frame.REFUSED:
                        raise SupervisorRefused(str(wire.parse_json(raw[BODY:]).get("message")))
                    self._take(kind, raw)
        except TimeoutError:
            raise SupervisorLost(
                f"the supervisor did not answer within {REQUEST_TIMEOUT:g} s: is it stopped (SIGSTOP)?"
            ) from None
        except (OSError, WireError) as error:
            raise SupervisorLost(f"the supervisor ended while this process said hello: {error}") from error
        self._socket.settimeout(None)

    # Out ------------------------------------------------------------------------------------------------------

    def register(self, function: Any, options: JobOptions) -> Registered:
        """Return the kind of a call, described to the supervisor; raise as `submit` does."""
        registered = self._kinds.try_look_up(function, options)
        if registered is None:
            with self._lock:
                registered, frames = self._kinds.look_up(function, options)
                if frames:
                    self._describe(frames)
        return registered

    def submit(
        self, job: Job[Any], registered: Registered, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any],
        options: JobOptions, delay: float, expires: float, key: bytes,
    ) -> None:
        """Pickle a call and send it; raise PayloadError, SubmitTimeout or SupervisorLost if that cannot be done."""
        call = (function, args, kwargs) if registered.carries_function else (args, kwargs)
        try:
            inline, fd = payload.dump(call, self._directory, args)
        except Exception as error:
            raise PayloadError(payload.explain(call, job.name, error)) from error
        job_id = job._job_id  # noqa: SLF001 - the property makes text of it, this is for every job
        length = SUBMIT_FRAME.size + len(key) + len(inline)
        number = registered.number
        data = SUBMIT_FRAME.pack(length, _SUBMIT, fd is not None, 0, job_id, number, delay, expires, len(key)) + key + inline
        kept = fd if fd is not None and unacknowledged.hold(fd) else None
        is_sent = False
        try:
            with self._lock:
                is_known = self._kinds.is_known(registered)
                if is_known:
                    self._enter_and_send((job, registered, data, kept, monotonic()), fd)
                    is_sent = True
        finally:
            if fd is not None and (kept is None or not is_sent):
                unacknowledged.let_go(fd)
        if not is_known:  # another thread had the supervisor forget all kinds while this one pickled
            self.submit(job, self.register(function, options), function, args, kwargs, options, delay, expires, key)
        elif self._receiver is None:
            self._start_receiver()

    def _describe(self, frames: bytes) -> None:
        try:
            self._send(frames)
        except BaseException:
            self._kinds.forget()
            raise

    def _enter_and_send(self, submission: Submission, fd: int | None) -> None:
        job = submission[0]
        self._jobs[job._job_id] = job  # noqa: SLF001 - see submit
        job.sent_over(self, self.sent + 1)
        self._unacknowledged.append(submission)
        try:
            self._send(submission[2], fd)
        except BaseException:
            self._take_out()
            raise
        self.sent += 1

    def _take_out(self) -> None:
        """Undo the entry of the last submission, which could not be sent."""
        job, registered, _, _, sent_at = self._unacknowledged.pop()
        self._jobs.pop(job._job_id, None)  # noqa: SLF001 - see submit
        if self._unsent and not self.lost:  # a part is under way and cannot be called back: a cancellation follows it
            self.sent += 1
            self._unacknowledged.append((job, registered, b"", None, sent_at))
            cancel = {"call": "cancel", "id": job._job_id.hex()}  # noqa: SLF001 - see submit
            self._unsent += wire.json_frame(Frame.REQUEST, cancel, prefix=wire.U32.pack(0))

    def take_over(self, waiting: deque[Submission], kept: deque[Job[Any]]) -> None:
        """Send, in order, what another connection was lost with, and take it out of `waiting`; nothing if this is lost too.

        If this one is lost in the act, the rest is entered and left to its receiver. Raise SubmitTimeout if the supervisor
        takes no bytes: then the rest is still in `waiting`. The answers of jobs that are `kept` in the store are asked for,
        and come over this connection.
        """
        with self._lock:
            if self.lost:
                return
            try:
                while waiting:
                    self._send_again(waiting[0])
                    waiting.popleft()
                while kept:
                    self._watch_again(kept[0])
                    kept.popleft()
            finally:
                self._start_receiver()

    def _send_again(self, submission: Submission) -> None:
        job, foreign, data, fd, sent_at = submission
        registered, frames = self._kinds.adopt(foreign)
        if frames:
            with contextlib.suppress(SupervisorLost):
                self._describe(frames)
        job.sent_over(self, self.sent + 1)
        if job.done():  # cancelled before; from here on, a cancellation comes over this connection, behind the job
            if fd is not None:
                unacknowledged.let_go(fd)
            return
        now = monotonic()
        renewed = job, registered, unacknowledged.renew(data, registered.number, now - sent_at), fd, now
        try:
            self._enter_and_send(renewed, fd)
        except SupervisorLost:  # it is entered all the same: this connection's own receiver decides about it
            self._jobs[job._job_id] = job  # noqa: SLF001 - see submit
            self._unacknowledged.append(renewed)

    def _watch_again(self, job: Job[Any]) -> None:
        job_id = job._job_id  # noqa: SLF001 - see submit
        job.sent_over(self, 0)
        if not job.done():
            self._jobs[job_id] = job
            with contextlib.suppress(SupervisorLost):  # then this connection's own receiver decides about it
                self._send(wire.frame(Frame.WATCH, job_id))

    def expect(self, job: Job[Any]) -> None:
        """Let others find the handle of a job that is about to be submitted."""
        with self._lock:
            self._jobs[job._job_id] = job  # noqa: SLF001 - see submit

    def expect_no_more(self, job: Job[Any]) -> None:
        """Undo that: it will not be submitted."""
        self._jobs.pop(job._job_id, None)  # noqa: SLF001 - see submit

    def drop_job(self, job: Job[Any]) -> None:
        """Cancel a job whose handle was cancelled; nothing is waited for."""
        self._jobs.pop(job._job_id, None)  # noqa: SLF001 - see submit
        self.ask_to_cancel(job._job_id)  # noqa: SLF001 - see submit

    def watch(self, job: Job[Any]) -> Job[Any]:
        """Ask for the answer of a job that another process submitted; return the handle that will get it."""
        job_id = job._job_id  # noqa: SLF001 - see submit
        with self._lock:
            known = self._jobs.setdefault(job_id, job)
            if known is job:
                job.sent_over(self, 0)
                try:
                    self._send(wire.frame(Frame.WATCH, job_id))
                except BaseException:
                    self._jobs.pop(job_id, None)
                    raise
        if self._receiver is None:
            self._start_receiver()
        return known

    # In -------------------------------------------------------------------------------------------------------

    def _start_receiver(self) -> None:
        with self._changed:
            if not self._will_end:
                self._will_end = True
                self._receiver = threading.Thread(target=self._receive, name="procjobs-receiver", daemon=True)
                self._receiver.start()

    def _receive(self) -> None:
        try:
            while True:
                data, ancillary, _, _ = self._socket.recvmsg(_READ_BYTES, _FD_SPACE, _CLOEXEC)
                for _, _, content in ancillary:
                    self._fds.extend(array.array("i", content[: len(content) // 4 * 4]))
                if not data:
                    break
                for kind, raw, has_descriptor in self._reader.feed(data):
                    if kind == _FINISHED:
                        self._take_answer(raw, has_descriptor)
                    else:
                        self._take(kind, raw)
                if self._closes_when_idle and not self._jobs:
                    break
        except (OSError, WireError):
            pass  # the supervisor was killed, this process has closed the connection, or nonsense came: all end here
        finally:
            self._end()

    def _end(self) -> None:
        """Settle everything that is awaited; the supervisor has gone, or this process has let go of it."""
        self.lost = True
        with self._changed:
            self._changed.notify_all()
        with self._lock:
            pass  # whoever was sending has noticed by now, and nobody sends after that
        problem: Exception | None = None
        try:
            if not self._closing:
                problem = self._try_successor()
        finally:
            while self._fds:
                os.close(self._fds.popleft())
            self._abandon_everything(problem)
            with self._changed:
                self._has_ended = True
                self._socket.close()
                self.table = None
                self._changed.notify_all()

    def _try_successor(self) -> Exception | None:
        """Let the successor have the jobs that the supervisor has not begun; return why it could not have them."""
        waiting = self._unacknowledged
        if self.welcome["settings"].get("store") is not None:
            return self._try_successor_with_store(waiting)
        oldest = monotonic() - self.welcome["settings"]["result_ttl"]  # an older one may have ended and lost its row
        waiting.keep({job_id for job_id in waiting.resendable(oldest) if job_id in self._jobs})
        self._abandon_all_but(waiting)
        if waiting and self.table is not None:
            waiting.keep(unacknowledged.find_unbegun(waiting.job_ids(), self.table))
            self._abandon_all_but(waiting)
            try:
                while waiting:
                    waiting[0][0].send_again(waiting, deque())
            except Exception as error:  # noqa: BLE001 - whatever it is that keeps this thread from a successor, handles tell it
                return error
        return None

    def _try_successor_with_store(self, waiting: Unacknowledged) -> Exception | None:
        """Send all that was not acknowledged: what the store has not, has not run. Ask for the answers of the others."""
        waiting.keep({job_id for job_id in waiting.resendable(0.0) if job_id in self._jobs})
        sent_again = waiting.job_ids()
        acknowledged = [job for job_id, job in list(self._jobs.items()) if job_id not in sent_again]
        kept = deque(job for job in acknowledged if job.is_awaited_from(self))
        try:
            while waiting or kept:
                (kept[0] if kept else waiting[0][0]).send_again(waiting, kept)
        except Exception as error:  # noqa: BLE001 - as in _try_successor
            return error
        for job in acknowledged:
            self._jobs.pop(job._job_id, None)  # noqa: SLF001 - see submit
        return None

    def _abandon_everything(self, problem: Exception | None) -> None:
        self.lost = True
        self._unacknowledged.keep(set())
        self._abandon_all_but(self._unacknowledged, problem)

    def _abandon_all_but(self, waiting: Unacknowledged, problem: Exception | None = None) -> None:
        kept = waiting.job_ids()
        for job_id in [job_id for job_id in list(self._jobs) if job_id not in kept]:
            job = self._jobs.pop(job_id, None)
            if job is None or not job.is_awaited_from(self):
                continue
            if self._closing:
                job.abandon(PoolClosed(f"the pool was shut down while job {job.id} was awaited"))
            else:
                has_store = self.welcome["settings"].get("store") is not None
                job.abandon(unacknowledged.describe_loss(job, self.welcome["pid"], problem, has_store=has_store))

    def _take_answer(self, raw: bytes, has_descriptor: bool) -> None:
        if len(raw) < FINISHED_FRAME.size:
            raise WireError("a FINISHED frame is too short")
        if has_descriptor and not self._fds:
            raise WireError("a descriptor did not come: the limit of open files is reached")
        fd = self._fds.popleft() if has_descriptor else None
        job_id = raw[BODY : BODY + ID_BYTES]
        job = self._jobs.get(job_id)
        if job is None:
            if fd is not None:
                os.close(fd)
            return
        if fd is None:
            job.settle(raw, None)
        else:
            self._settle_mapped(job, raw, fd)
        self._jobs.pop(job_id, None)  # not before: a job whose answer is nonsense ends with the connection

    def _take(self, kind: int, raw: bytes) -> None:
        if kind == Frame.ACCEPTED:
            accepted = int.from_bytes(raw[BODY:], "little")
            self._unacknowledged.drop(accepted - self._accepted)
            with self._changed:
                self._accepted = accepted
                self._changed.notify_all()
        elif kind == Frame.REPLY:
            self._take_reply(int.from_bytes(raw[BODY : BODY + 4], "little"), wire.parse_json(raw[BODY + 4 :]))
        elif kind == Frame.NOTICE:
            with contextlib.suppress(Warning):  # one that is an error in this application; here is nobody to raise it to
                self.on_notice(wire.parse_json(raw[BODY:]).get("problem"))
        elif kind == Frame.WELCOME:
            self.welcome = _checked_welcome(wire.parse_json(raw[BODY:]))

    @staticmethod
    def _settle_mapped(job: Job[Any], raw: bytes, fd: int) -> None:
        try:
            received = payload.Received(wire.finished_payload(raw), fd)
        except OSError as error:  # ENOMEM: too many mappings, or no address space
            job.abandon(PayloadError(f"the result of job {job.id} {job.name} could not be mapped: {error}"))
        else:
            job.settle(raw, received)

    def wait_accepted(self, sequence: int, timeout: float | None) -> bool:
        """Wait until the supervisor has taken that many submissions of this connection; return False if it never will.

        In that case everything that was awaited here has been settled, or is awaited over another connection.
        """
        self._start_receiver()
        self._ask_for_acknowledgement(sequence)
        with self._changed:
            if not self._changed.wait_for(lambda: self._accepted >= sequence or self._has_ended, timeout):
                raise TimeoutError("the supervisor has not acknowledged the job yet")
            return self._accepted >= sequence

    def wait_all_accepted(self, timeout: float) -> None:
        """Wait until the supervisor has taken all that was submitted until now, has gone, or time is out."""
        self._start_receiver()
        sent = self.sent
        self._ask_for_acknowledgement(sent)
        with self._changed:
            self._changed.wait_for(lambda: self._accepted >= sent or self.lost, timeout)

    def outstanding(self) -> list[Job[Any]]:
        """Return the jobs whose answers are awaited."""
        return list(self._jobs.values())

    def unaccepted(self) -> int:
        """Return how many submissions are under way to the supervisor."""
        return len(self._unacknowledged)

    def close_when_idle(self) -> None:
        """Close the connection when the last awaited answer has arrived, or the supervisor has gone."""
        self._closes_when_idle = True
        if self._receiver is None or not self._jobs:
            self.close()

    def close(self) -> None:
        """Close the connection and wait for the receiver thread to end, which may be in a callback of the user's."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._changed:
            receiver = self._receiver
            is_alone, self._will_end = not self._will_end, True
        if is_alone:
            self._end()
        elif receiver is threading.current_thread():
            self._abandon_everything(None)
        else:
            self.wait_for_end(None)

    def retire(self) -> None:
        """Let go of a lost connection; its receiver sees to what is awaited."""
        self._start_receiver()

    def wait_for_end(self, timeout: float | None) -> None:
        """Wait until the supervisor has closed the connection, and what was awaited is settled."""
        self._start_receiver()
        receiver = self._receiver
        if receiver is not None and receiver is not threading.current_thread():
            receiver.join(timeout)

    def is_receiving(self) -> bool:
        """Return whether the receiver thread lives."""
        return self._receiver is not None and self._receiver.is_alive()

    def close_inherited(self) -> None:
        """Close this copy of the descriptor in a forked child; the parent's connection is not touched."""
        self._socket.close()


def _checked_welcome(welcome: dict[str, Any]) -> dict[str, Any]:
    """Return a welcome that says what is needed later; raise WireError for any other."""
    settings = welcome.get("settings")
    known = settings if isinstance(settings, dict) else {}
    numbers = welcome.get("pid"), known.get("result_ttl"), known.get("max_queued")
    if "problem" not in welcome or not all(isinstance(number, int | float) for number in numbers):
        raise WireError("a WELCOME without the pid, the settings or the problem")
    return welcome


def _ignore(_problem: str | None) -> None:
    pass
