"""One process's connection to a supervisor: frames out from any thread, answers in on one receiver thread.

1. A frame is sent whole under the sender's lock, or its rest is kept and sent before anything else.
2. The receiver thread only moves bytes: it unpickles nothing and runs no code of a job.
3. A job is entered before its frame is sent, so its answer always finds it.
4. The receiver thread ends the connection: it settles every handle, or sees it go to a successor (`failover`).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from procjobs.client.connection.failover import NO_TABLE, Failover, NoTable, OnLost
from procjobs.client.connection.handle import Handle
from procjobs.client.connection.kinds import Kind, KindRegistry
from procjobs.client.connection.receiver import FrameReceiver
from procjobs.client.connection.requests import RequestChannel, request_frame
from procjobs.client.connection.sender import FrameSender
from procjobs.client.connection.state import ConnectionState, Lifecycle
from procjobs.client.connection.submission import SENT
from procjobs.client.connection.unacknowledged import Unacknowledged, release_fd, retain_fd
from procjobs.clock import monotonic
from procjobs.errors import PayloadError, SupervisorLost
from procjobs.host import payload
from procjobs.shared import wire
from procjobs.shared.config import JobOptions
from procjobs.shared.ids import ID_BYTES
from procjobs.shared.wire import BODY, F64, FINISHED_FRAME, SUBMIT_FRAME, Frame, WireError

if TYPE_CHECKING:
    import socket

    from procjobs.client.connection.handshake import Greeting
    from procjobs.client.connection.submission import Submission
    from procjobs.shared.table.post_mortem import PostMortemTable

REQUEST_TIMEOUT: Final = 30.0
_SUBMIT: Final = int(Frame.SUBMIT)
_SUBMIT_UNIQUE: Final = int(Frame.SUBMIT_UNIQUE)
_FINISHED: Final = int(Frame.FINISHED)

OnNotice: TypeAlias = Callable[[str | None], None]
"""Takes the problem that keeps the pool from running jobs, None when it is over. For the receiver thread."""
H = TypeVar("H", bound=Handle)


class Connection:
    """A connection that has said hello. It serves the process that made it; a forked child makes its own."""

    def __init__(
        self,
        sock: socket.socket,
        greeting: Greeting,
        table: PostMortemTable | NoTable,
        directory: str,
        *,
        submit_timeout: float,
        on_lost: OnLost,
        on_notice: OnNotice,
    ) -> None:
        """`table` is that of the supervisor that was greeted; large payloads go into `directory` without a memfd."""
        self.pid = os.getpid()
        self.welcome = greeting.welcome
        self.lifecycle = Lifecycle()
        self.sender = FrameSender(sock, submit_timeout, self.lifecycle)
        self.requests = RequestChannel(self.sender, self.lifecycle)
        self.sent = 0
        self._accepted = 0
        self._receiver = FrameReceiver(sock, greeting.reader)
        self._thread: threading.Thread | None = None
        self._kinds = KindRegistry()
        self._handles: dict[bytes, Handle] = {}
        self._unacknowledged = Unacknowledged()
        self._table: PostMortemTable | NoTable = table
        self._directory = directory
        self._on_lost, self._on_notice = on_lost, on_notice

    @property
    def lost(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.lifecycle.is_lost

    # Out ------------------------------------------------------------------------------------------------------

    def register(self, function: Any, options: JobOptions) -> Kind:
        """Return the kind of a call, described to the supervisor; raise as `submit` does."""
        known = self._kinds.by_identity.get((id(function), id(options)))
        if known is not None:
            return known[2]
        with self.sender.lock:
            kind, frames = self._kinds.look_up(function, options)
            if frames:
                self._describe(frames)
        return kind

    def submit(self, submission: Submission) -> None:
        """Pickle a call and send it; raise PayloadError, SubmitTimeout or SupervisorLost if that cannot be done."""
        handle, kind, terms = submission.handle, submission.kind, submission.terms
        function, args, kwargs = submission.call
        call = submission.call if kind.carries_function else (args, kwargs)
        try:
            inline, fd = payload.dump(call, self._directory, args)
        except Exception as error:
            raise PayloadError(payload.explain(call, handle.name, error)) from error
        job_id, key, frame_kind, rest = handle.raw_id, terms.key, _SUBMIT, inline
        if key:
            rest = key + inline
            if terms.unique is not None:
                frame_kind, rest = _SUBMIT_UNIQUE, F64.pack(terms.unique) + rest
        length = SUBMIT_FRAME.size + len(rest)
        data = SUBMIT_FRAME.pack(
            length, frame_kind, fd is not None, 0, job_id, kind.number, submission.delay, terms.expires, len(key)
        ) + rest  # fmt: skip
        submission.frame = data
        submission.fd = fd if fd is not None and retain_fd(fd) else None
        is_sent = False
        try:
            with self.sender.lock:
                is_known = kind.number >= self._kinds.first_valid
                if is_known:
                    # As in `_send_again`, and in place: this runs for every job.
                    submission.sent_at = monotonic()
                    self._handles[job_id] = handle
                    handle.sent_over(self, self.sent + 1)
                    self._unacknowledged.append(submission)
                    try:
                        self.sender.send(data, fd)
                    except BaseException:
                        self._take_out()
                        raise
                    self.sent += 1
                    submission.call = SENT
                    is_sent = True
        finally:
            if fd is not None and (submission.fd is None or not is_sent):
                release_fd(fd)
        if not is_known:  # another thread had the supervisor forget all kinds while this one pickled
            submission.kind = self.register(function, submission.options)
            self.submit(submission)
        elif self._thread is None:
            self._start_receiver()

    def _describe(self, frames: bytes) -> None:
        try:
            self.sender.send(frames)
        except BaseException:
            self._kinds.forget()
            raise

    def _take_out(self) -> None:
        """Undo the entry of the last submission, which could not be sent."""
        submission = self._unacknowledged.pop()
        job_id = submission.handle.raw_id
        self._handles.pop(job_id, None)
        if self.sender.unsent and not self.lost:
            # A part is under way and cannot be called back: a cancellation follows it.
            self.sent += 1
            self._unacknowledged.append(submission.without_frame())
            self.sender.unsent += request_frame("cancel", id=job_id.hex())

    def watch(self, handle: H) -> H:
        """Ask for the answer of a job that another process submitted; return the handle that will get it."""
        job_id = handle.raw_id
        with self.sender.lock:
            known = self._handles.setdefault(job_id, handle)
            if known is handle:
                handle.sent_over(self, 0)
                try:
                    self.sender.send(wire.frame(Frame.WATCH, job_id))
                except BaseException:
                    self._handles.pop(job_id, None)
                    raise
        if self._thread is None:
            self._start_receiver()
        return known  # type: ignore[return-value]  # all handles of a process are of one class

    def cancel_job(self, job_id: bytes) -> None:
        """Cancel a job whose handle was cancelled; nothing is waited for."""
        self._handles.pop(job_id, None)
        self.requests.post_cancel(job_id)

    def request(self, call: str, *, timeout: float | None = REQUEST_TIMEOUT, **arguments: Any) -> dict[str, Any]:
        """Ask the supervisor and wait for its reply; raise SupervisorLost if there is none."""
        if self._thread is None:
            self._start_receiver()
        return self.requests.request(call, timeout, **arguments)

    # From a predecessor ---------------------------------------------------------------------------------------

    def take_over(self, waiting: deque[Submission], kept: deque[Handle]) -> None:
        """Send, in order, the submissions of a lost connection, and take them out of `waiting`; nothing if this is lost too.

        If this one is lost in the act, the rest is entered and left to its receiver. Raise SubmitTimeout if the supervisor
        takes no bytes: then the rest is still in `waiting`. The answers of jobs that are `kept` in the store are asked for,
        and come over this connection.
        """
        with self.sender.lock:
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
        kind, frames = self._kinds.adopt(submission.kind)
        if frames:
            with contextlib.suppress(SupervisorLost):
                self._describe(frames)
        handle = submission.handle
        handle.sent_over(self, self.sent + 1)
        if handle.done():  # cancelled before; from here on, a cancellation comes over this connection, behind the job
            if submission.fd is not None:
                release_fd(submission.fd)
            return
        renewed = submission.renewed(kind, monotonic())
        self._handles[handle.raw_id] = handle
        self._unacknowledged.append(renewed)
        try:
            self.sender.send(renewed.frame, renewed.fd)
        except SupervisorLost:
            return  # it stays entered: this connection's own receiver decides about it
        except BaseException:
            self._take_out()
            raise
        self.sent += 1

    def _watch_again(self, handle: Handle) -> None:
        handle.sent_over(self, 0)
        if not handle.done():
            self._handles[handle.raw_id] = handle
            with contextlib.suppress(SupervisorLost):  # then this connection's own receiver decides about it
                self.sender.send(wire.frame(Frame.WATCH, handle.raw_id))

    # In -------------------------------------------------------------------------------------------------------

    def _start_receiver(self) -> None:
        with self.lifecycle.changed:
            if self._thread is None and not (self.lifecycle.is_closing or self.lifecycle.has_ended):
                self._thread = threading.Thread(target=self._receive, name="procjobs-receiver", daemon=True)
                self._thread.start()

    def _receive(self) -> None:
        lifecycle = self.lifecycle
        try:
            while (frames := self._receiver.receive()) is not None:
                for kind, raw, has_descriptor in frames:
                    if kind == _FINISHED:
                        self._take_answer(raw, has_descriptor)
                    else:
                        self._take(kind, raw)
                if lifecycle.state is ConnectionState.LEAVING and not self._handles:
                    break
        except (OSError, WireError):
            pass  # the supervisor was killed, this process has closed the connection, or nonsense came: all end here
        finally:
            self._end()

    def _end(self) -> None:
        """Settle everything that is awaited; the supervisor has gone, or this process has let go of it."""
        self.lifecycle.move_to(ConnectionState.LOST)
        with self.sender.lock:
            pass  # a thread that was sending has noticed by now, and nothing is sent after that
        problem: Exception | None = None
        try:
            if not self.lifecycle.is_closing:
                problem = self._failover().move_to_successor(self._on_lost)
        finally:
            self._failover().abandon_all(problem)
            self._receiver.close()
            self._table = NO_TABLE  # it is unmapped with its last reader
            self.lifecycle.move_to(ConnectionState.ENDED)

    def _failover(self) -> Failover:
        return Failover(self, self._handles, self._unacknowledged, self.welcome, self._table, self.lifecycle)

    def _take_answer(self, raw: bytes, has_descriptor: bool) -> None:
        if len(raw) < FINISHED_FRAME.size:
            raise WireError("a FINISHED frame is too short")
        fd = self._receiver.take_descriptor() if has_descriptor else None
        job_id = raw[BODY : BODY + ID_BYTES]
        handle = self._handles.get(job_id)
        if handle is None:
            if fd is not None:
                os.close(fd)
            return
        if fd is None:
            handle.settle(raw, None)
        else:
            _settle_mapped(handle, raw, fd)
        self._handles.pop(job_id, None)  # not before: a job whose answer is nonsense ends with the connection

    def _take(self, kind: int, raw: bytes) -> None:
        if kind == Frame.ACCEPTED:
            accepted = int.from_bytes(raw[BODY:], "little")
            self._unacknowledged.drop(accepted - self._accepted)
            with self.lifecycle.changed:
                self._accepted = accepted
                self.lifecycle.changed.notify_all()
        elif kind == Frame.DUPLICATE:
            duplicate = self._handles.pop(raw[BODY : BODY + ID_BYTES], None)
            if duplicate is not None:
                duplicate.refer_to(raw[BODY + ID_BYTES :])
        elif kind == Frame.REPLY:
            self.requests.take_reply(int.from_bytes(raw[BODY : BODY + 4], "little"), wire.parse_json(raw[BODY + 4 :]))
        elif kind == Frame.NOTICE:
            problem = wire.parse_json(raw[BODY:]).get("problem")
            with contextlib.suppress(Warning):  # an error in this application, and here is no caller to raise it to
                self._on_notice(problem)

    # Waiting --------------------------------------------------------------------------------------------------

    def wait_accepted(self, sequence: int, timeout: float | None) -> bool:
        """Wait until the supervisor has taken that many submissions of this connection; return False if it never will.

        In that case everything that was awaited here has been settled, or is awaited over another connection.
        """
        self._ask_for_acknowledgement(sequence)
        with self.lifecycle.changed:
            has_come = self.lifecycle.changed.wait_for(
                lambda: self._accepted >= sequence or self.lifecycle.has_ended, timeout
            )
            if not has_come:
                raise TimeoutError("the supervisor has not acknowledged the job yet")
            return self._accepted >= sequence

    def wait_all_accepted(self, timeout: float) -> None:
        """Wait until the supervisor has taken all that was submitted until now, has gone, or time is out."""
        sent = self.sent
        self._ask_for_acknowledgement(sent)
        with self.lifecycle.changed:
            self.lifecycle.changed.wait_for(lambda: self._accepted >= sent or self.lost, timeout)

    def _ask_for_acknowledgement(self, sequence: int) -> None:
        self._start_receiver()
        if self._accepted < sequence:
            self.requests.post_acknowledge()

    def outstanding(self) -> list[Handle]:
        """Return the handles of the jobs whose answers are awaited."""
        return list(self._handles.values())

    def unaccepted(self) -> int:
        """Return how many submissions are under way to the supervisor."""
        return len(self._unacknowledged)

    # The end --------------------------------------------------------------------------------------------------

    def close_when_idle(self) -> None:
        """Close the connection when the last awaited answer has arrived, or the supervisor has gone."""
        self.lifecycle.move_to(ConnectionState.LEAVING)
        if self._thread is None or not self._handles:
            self.close()

    def close(self) -> None:
        """Close the connection and wait for the receiver thread to end, which may be in a callback of the user's."""
        with self.lifecycle.changed:
            thread = self._thread
            is_alone = thread is None and not (self.lifecycle.is_closing or self.lifecycle.has_ended)
            self.lifecycle.move_to(ConnectionState.CLOSING)
        self._receiver.shut_down()
        if is_alone:
            self._end()
        elif thread is threading.current_thread():
            self._failover().abandon_all(None)
        else:
            self.wait_for_end(None)

    def retire(self) -> None:
        """Let go of a lost connection; its receiver sees to the jobs that are awaited."""
        self._start_receiver()

    def wait_for_end(self, timeout: float | None) -> None:
        """Wait until the supervisor has closed the connection, and everything that was awaited is settled."""
        self._start_receiver()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def is_receiving(self) -> bool:
        """Return whether the receiver thread lives."""
        return self._thread is not None and self._thread.is_alive()

    def close_inherited(self) -> None:
        """Close this copy of the descriptor in a forked child; the parent's connection is not touched."""
        self._receiver.close()


def _settle_mapped(handle: Handle, raw: bytes, fd: int) -> None:
    try:
        received = payload.Received(wire.finished_payload(raw), fd)
    except OSError as error:  # ENOMEM: too many mappings, or no address space
        handle.abandon(PayloadError(f"the result of job {handle.id} {handle.name} could not be mapped: {error}"))
    else:
        handle.settle(raw, received)
