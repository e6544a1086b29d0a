"""One process's connection to a supervisor: frames out from any thread, answers in on one receiver thread.

1. A frame is sent whole under the sender's lock, or its rest is kept and sent before anything else. Any thread may be
   interrupted between any two lines (`interruptible`).
2. The receiver thread only moves bytes: it unpickles nothing and runs no code of a job.
3. A job is entered before its frame is sent, so its answer always finds it.
4. The receiver thread ends the connection: it settles every handle, or sees it go to a successor (`failover`).
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from procjobs.client.connection.batches import Batch, drop_first, first_batch
from procjobs.client.connection.caller import Caller, extent
from procjobs.client.connection.entries import Entries
from procjobs.client.connection.failover import NO_TABLE, Failover, NoTable, OnLost
from procjobs.client.connection.handle import Handle
from procjobs.client.connection.kinds import Kind, KindRegistry
from procjobs.client.connection.native_thread import NativeThread, get_ident
from procjobs.client.connection.packing import pack
from procjobs.client.connection.receiver import FrameReceiver, settle_mapped
from procjobs.client.connection.requests import RequestChannel
from procjobs.client.connection.sender import FrameSender, request_frame
from procjobs.client.connection.state import ConnectionState, Lifecycle
from procjobs.client.connection.submission import SENT
from procjobs.client.connection.unacknowledged import try_retain
from procjobs.clock import monotonic
from procjobs.errors import SupervisorLost
from procjobs.host.descriptors import out_of_descriptors
from procjobs.originals import close
from procjobs.shared import wire
from procjobs.shared.config import JobOptions
from procjobs.shared.ids import ID_BYTES
from procjobs.shared.wire import BODY, FINISHED_FRAME, Frame, WireError

if TYPE_CHECKING:
    import socket

    from procjobs.client.connection.handshake import Greeting
    from procjobs.client.connection.submission import Submission
    from procjobs.shared.table.post_mortem import PostMortemTable

REQUEST_TIMEOUT: Final = 30.0
_FINISHED: Final = int(Frame.FINISHED)

OnNotice: TypeAlias = Callable[[dict[str, Any]], None]
"""Takes a NOTICE: the `problem` that keeps the pool from running jobs, empty when it is over, and a `notice`.

For the receiver thread."""
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
        caller: Caller,
        on_lost: OnLost,
        on_notice: OnNotice,
    ) -> None:
        """`table` is that of the supervisor that was greeted; large payloads go into `directory` without a memfd."""
        self.pid = os.getpid()
        self.welcome = greeting.welcome
        self.lifecycle = Lifecycle()
        self._entries = Entries()
        self.sender = FrameSender(sock, submit_timeout, self.lifecycle, self._entries)
        self.requests = RequestChannel(self.sender, self.lifecycle)
        self._receiver = FrameReceiver(sock, greeting.reader)
        self._is_received = False
        self._receivers = ["the one"]  # a thread that takes it out receives, any other one ends
        self._thread: NativeThread | None = None
        self._thread_id = 0
        self._kinds = KindRegistry(caller, greeting.files_sent)
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
        if known is not None and extent() == self._kinds.caller.looked_at:
            return known[2]
        return self.sender.exclusive.run(self._describe, function, options)

    def _describe(self, function: Any, options: JobOptions) -> Kind:
        kinds = self._kinds
        kinds.begin()
        files = kinds.look_at_files(function)
        kind, frames = kinds.look_up(function, options)
        if files or frames:
            self.sender.send(files + frames)
        kinds.end()
        return kind

    def submit(self, submission: Submission) -> None:
        """Pickle a call and send it; raise PayloadError or a SupervisorError if that cannot be done."""
        if not self._is_received:  # before anything is sent: where there can be no thread, there is no job either
            self.start_receiving()
        call = submission.call
        pack(submission, self._directory, self._kinds.caller.by_value)
        file = submission.file
        is_kept = file is None or try_retain(file)
        with self.sender.exclusive.lock: is_known = self._submit(submission)  # noqa: E701 - see Exclusive
        if is_known:
            submission.call = SENT
            if not is_kept:
                submission.file = None
        else:  # another thread had the supervisor forget all kinds meanwhile, or was interrupted while it described one
            submission.kind = self.sender.exclusive.run(self._describe, call[0], submission.options)
            self.submit(submission)

    def _submit(self, submission: Submission) -> bool:
        is_known = submission.kind.number >= self._kinds.first_valid
        if is_known:
            self.sender.submit(submission, self)
        return is_known

    def pack(self, submission: Submission, mark: object) -> None:
        """Pickle a call of a batch, whose submissions have the same `mark`; raise PayloadError if that cannot be done."""
        submission.batch = mark
        pack(submission, self._directory, self._kinds.caller.by_value)
        submission.call = SENT

    def try_submit_many(self, submissions: Sequence[Submission]) -> bool:
        """Send packed calls together; raise as `submit`. Where it raises, none was submitted.

        Return False if the supervisor was made to forget their kinds meanwhile; none was submitted then either.
        """
        if not self._is_received:
            self.start_receiving()
        unkept = [one for one in submissions if one.file is not None and not try_retain(one.file)]
        batch = Batch(submissions, self._directory)
        with self.sender.exclusive.lock: is_known = self._submit_batch(batch)  # noqa: E701 - see Exclusive
        for submission in unkept:
            submission.file = None
        return is_known

    def _submit_batch(self, batch: Batch) -> bool:
        is_known = min(submission.kind.number for submission in batch.submissions) >= self._kinds.first_valid
        if is_known:
            self.sender.submit_many(batch, self)
        return is_known

    def watch(self, handle: H) -> H:
        """Ask for the answer of a job that another process submitted; return the handle that will get it."""
        known = self.sender.exclusive.run(self._watch, handle)
        if not self._is_received:
            self.start_receiving()
        return known  # type: ignore[return-value]  # all handles of a process are of one class

    def _watch(self, handle: Handle) -> Handle:
        return self.sender.watch(handle, self)

    def cancel_job(self, job_id: bytes) -> None:
        """Cancel a job whose handle was cancelled; nothing is waited for. The handle stays until that is confirmed."""
        self.requests.post_cancel(job_id)

    def begin_wait(self, waiter: str, job_ids: list[bytes]) -> int:
        """Tell the supervisor that a job of this process waits for any of these; return the number of the wait.

        That of another pool is told nothing, and the number is 0.
        """
        return self.requests.post_wait(waiter, job_ids) if self.welcome.get("inside") else 0

    def end_wait(self, number: int) -> None:
        """Tell the supervisor that this wait is over."""
        if number:
            self.requests.post_wait_over(number)

    def request(self, call: str, *, timeout: float | None = REQUEST_TIMEOUT, **arguments: Any) -> dict[str, Any]:
        """Ask the supervisor and wait for its reply; raise SupervisorLost if there is none."""
        if not self._is_received:
            self.start_receiving()
        return self.requests.request(call, timeout, **arguments)

    # From a predecessor ---------------------------------------------------------------------------------------

    def take_over(self, waiting: deque[Submission], kept: deque[Handle]) -> None:
        """Send, in order, the submissions of a lost connection, and take them out of `waiting`; nothing if this is lost too.

        If this one is lost in the act, the rest is entered and left to its receiver. Raise SubmitTimeout if the supervisor
        takes no bytes: then the rest is still in `waiting`. The answers of jobs that are `kept` in the store are asked for,
        and come over this connection.
        """
        self.sender.exclusive.run(self._take_over, waiting, kept)

    def _take_over(self, waiting: deque[Submission], kept: deque[Handle]) -> None:
        if self.lost:
            return
        try:
            while waiting:
                if waiting[0].batch is None:
                    self._send_again(waiting[0])
                    waiting.popleft()
                else:
                    self._send_batch_again(waiting)
            while kept:
                self._watch_again(kept[0])
                kept.popleft()
        finally:
            self.start_receiving()

    def _send_again(self, submission: Submission) -> None:
        handle = submission.handle
        handle.sent_over(self, self._entries.sent + 1)
        if handle.done():  # cancelled before; from here on, a cancellation comes over this connection, behind the job
            self._watch_again(handle)
            return
        kind = self._adopt(submission.kind)
        renewed = submission.renewed(kind, monotonic())
        try:
            self.sender.submit(renewed, self)
        except SupervisorLost:
            self.sender.end()
            self._entries.enter(renewed, self)  # this connection's own receiver decides about it

    def _send_batch_again(self, waiting: deque[Submission]) -> None:
        """Send the first ones together that went together, and take them out of `waiting`."""
        position, together = self._entries.sent, first_batch(waiting)
        renewed: list[Submission] = []
        for submission in together:
            submission.handle.sent_over(self, position + len(renewed) + 1)
            if submission.handle.done():  # as in _send_again
                self._watch_again(submission.handle)
            else:
                renewed.append(submission.renewed(self._adopt(submission.kind), monotonic()))
        if renewed:
            try:
                self.sender.submit_many(Batch(renewed, self._directory), self)
            except SupervisorLost:
                self.sender.end()
                self._entries.enter_many(renewed, self)
        drop_first(waiting, len(together))

    def _adopt(self, kind: Kind) -> Kind:
        self._kinds.begin()
        own, frames = self._kinds.adopt(kind)
        if frames:
            with contextlib.suppress(SupervisorLost):
                self.sender.send(frames)
        self._kinds.end()
        return own

    def _watch_again(self, handle: Handle) -> None:
        handle.sent_over(self, 0)
        self._entries.handles[handle.raw_id] = handle
        with contextlib.suppress(SupervisorLost):  # then this connection's own receiver decides about it
            self.sender.send(wire.frame(Frame.WATCH, handle.raw_id))
            if handle.done():  # cancelled, which the supervisor before may not have heard of
                self.sender.send_owed(request_frame("cancel", id=handle.raw_id.hex()))

    # In -------------------------------------------------------------------------------------------------------

    def start_receiving(self) -> None:
        """Start the receiver thread if it does not run yet; that of a lost connection settles what is awaited."""
        if not self._is_received and not self.lifecycle.has_ended:
            self._thread = NativeThread(self._receive, "procjobs-receiver")
            self._thread.start_or_explain()
            self._is_received = True

    def _receive(self) -> None:
        try:
            self._receivers.pop()
        except IndexError:  # the thread that started another one was interrupted before it could note that
            return
        self._is_received, self._thread_id = True, get_ident()
        lifecycle = self.lifecycle
        failure: Exception | None = None
        try:
            while (frames := self._receiver.receive()) is not None:
                for kind, raw, has_descriptor in frames:
                    if kind == _FINISHED:
                        self._take_answer(raw, has_descriptor)
                    else:
                        self._take(kind, raw)
                if lifecycle.state is ConnectionState.LEAVING and not self._entries.handles:
                    break
        except OSError:
            pass  # the supervisor was killed, or this process has closed the connection
        except WireError as error:  # nonsense came
            failure = error
        except Exception as error:
            failure = error
            raise
        finally:
            self._end(failure)

    def _end(self, failure: Exception | None) -> None:
        """Settle everything that is awaited; the supervisor has gone, or this process has let go of it.

        `failure` is what has kept this process from reading on.
        """
        self.lifecycle.move_to(ConnectionState.LOST)
        self.sender.exclusive.run(self.sender.end)  # a thread that was sending has noticed by now
        problem: Exception | None = None
        try:
            if not self.lifecycle.is_closing:
                problem = self._failover(failure).move_to_successor(self._on_lost)
        finally:
            self._failover(failure).abandon_all(problem)
            self._receiver.close()
            self._table = NO_TABLE  # it is unmapped with its last reader
            was_closing = self.lifecycle.is_closing
            self.lifecycle.move_to(ConnectionState.ENDED)
        if not was_closing:
            with contextlib.suppress(Exception):  # the next call that needs the pool finds out why it cannot be reached
                self._on_lost(self._entries.unacknowledged, deque())

    def _failover(self, failure: Exception | None = None) -> Failover:
        return Failover(self, self._entries, self.welcome, self._table, self.lifecycle, failure)

    def _take_answer(self, raw: bytes, has_descriptor: bool) -> None:
        if len(raw) < FINISHED_FRAME.size:
            raise WireError("a FINISHED frame is too short")
        fd = self._receiver.take_descriptor() if has_descriptor else None
        if has_descriptor and fd is None:
            raw = wire.without_payload(raw, out_of_descriptors("process that waits for it"))
        job_id = raw[BODY : BODY + ID_BYTES]
        handle = self._entries.handles.get(job_id)
        if handle is None:
            if fd is not None:
                close(fd)
            return
        if handle.done():
            self._entries.note_end_of_cancelled(job_id, raw)
        if fd is None:
            handle.settle(raw, None)
        else:
            settle_mapped(handle, raw, fd)
        self._entries.handles.pop(job_id, None)  # not before: a job whose answer is nonsense ends with the connection

    def _take(self, kind: int, raw: bytes) -> None:
        if kind == Frame.ACCEPTED:
            self._entries.take_acknowledgement(int.from_bytes(raw[BODY:], "little"))
            self.lifecycle.news.spread()
        elif kind == Frame.DUPLICATE:
            duplicate = self._entries.handles.pop(raw[BODY : BODY + ID_BYTES], None)
            if duplicate is not None:
                duplicate.refer_to(raw[BODY + ID_BYTES :])
        elif kind == Frame.REPLY:
            self.requests.take_reply(int.from_bytes(raw[BODY : BODY + 4], "little"), wire.parse_json(raw[BODY + 4 :]))
        elif kind == Frame.HANDED_OVER:
            self._entries.are_handed_over = True
        elif kind == Frame.NOTICE:
            news = wire.parse_json(raw[BODY:])
            with contextlib.suppress(Warning):  # an error in this application, and here is no caller to raise it to
                self._on_notice(news)

    # Waiting --------------------------------------------------------------------------------------------------

    def wait_accepted(self, sequence: int, timeout: float | None) -> bool:
        """Wait until the supervisor has taken that many submissions of this connection; return False if it never will.

        In that case everything that was awaited here has been settled, or is awaited over another connection.
        """
        self._ask_for_acknowledgement(sequence)
        entries = self._entries
        if not self.lifecycle.news.wait_for(
            lambda: entries.accepted >= sequence or self.lifecycle.has_ended, timeout
        ):
            raise TimeoutError("the supervisor has not acknowledged the job yet")
        return entries.accepted >= sequence

    def wait_all_accepted(self, timeout: float) -> None:
        """Wait until the supervisor has taken all that was submitted until now, has gone, or time is out."""
        entries = self._entries
        sent = entries.sent
        self._ask_for_acknowledgement(sent)
        self.lifecycle.news.wait_for(lambda: entries.accepted >= sent or self.lost, timeout)

    def _ask_for_acknowledgement(self, sequence: int) -> None:
        self.start_receiving()
        if self._entries.accepted < sequence:
            self.requests.post_acknowledge()

    @property
    def sent(self) -> int:
        """How many submissions have gone to the supervisor."""
        return self._entries.sent

    def cancel_again(self, former: Connection) -> None:
        """Cancel what was cancelled over a former connection and ended there because the pool was stopped."""
        while former._entries.stopped:
            self.requests.post_cancel(former._entries.stopped.popleft())

    def outstanding(self) -> list[Handle]:
        """Return the handles of the jobs whose answers are awaited."""
        self.sender.exclusive.run(self.sender.settle)  # or there may be one whose submission was interrupted
        return [handle for handle in list(self._entries.handles.values()) if not handle.done()]

    def unaccepted(self) -> int:
        """Return how many submissions are under way to the supervisor."""
        return len(self._entries.unacknowledged)

    # The end --------------------------------------------------------------------------------------------------

    def close_when_idle(self) -> None:
        """Close the connection when the last awaited answer has arrived, or the supervisor has gone."""
        self.sender.exclusive.run(self.sender.settle)
        self.lifecycle.move_to(ConnectionState.LEAVING)
        if not self._is_received or not self._entries.handles:
            self.close()

    def close(self) -> None:
        """Close the connection and wait for the receiver thread to end, which may be in a callback of the user's."""
        self.lifecycle.move_to(ConnectionState.CLOSING)
        self._receiver.shut_down()
        if self._thread_id == get_ident():
            self._failover().abandon_all(None)
        else:
            try:
                self.start_receiving()
            except RuntimeError:  # the interpreter is ending, and starts no more threads
                self._receive()
            self.wait_for_end(None)

    def wait_for_end(self, timeout: float | None) -> None:
        """Wait until the supervisor has closed the connection, and everything that was awaited is settled."""
        self.start_receiving()
        if self._thread_id == get_ident():
            return
        if self.lifecycle.news.wait_for(lambda: self.lifecycle.has_ended, timeout) and self._thread is not None:
            self._thread.join()  # it has nothing left to do, but it holds what it has done it with

    def is_receiving(self) -> bool:
        """Return whether the receiver thread lives."""
        return self._is_received and not self.lifecycle.has_ended

    def close_inherited(self) -> None:
        """Close this copy of the descriptor in a forked child; the parent's connection is not touched."""
        self._receiver.close()
