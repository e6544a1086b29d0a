"""Frames out: each is sent whole, or its rest is kept and sent before anything else."""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from procjobs.client.connection.batches import Batch
from procjobs.client.connection.interruptible import Exclusive
from procjobs.client.connection.state import OPEN, ConnectionState
from procjobs.clock import monotonic
from procjobs.errors import SubmitTimeout, SupervisorLost
from procjobs.host.descriptors import pack_descriptor
from procjobs.originals import original
from procjobs.shared import wire
from procjobs.shared.wire import Frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from procjobs.client.connection.entries import Entries
    from procjobs.client.connection.handle import Handle
    from procjobs.client.connection.state import Lifecycle
    from procjobs.client.connection.submission import Submission
    from procjobs.host.descriptors import Descriptor

_FLAGS: Final = (int(socket.MSG_DONTWAIT) | int(socket.MSG_NOSIGNAL),)


def request_frame(call: str, number: int = 0, **arguments: object) -> bytes:
    """Return the frame of a request; one with the number 0 gets no reply."""
    return wire.json_frame(Frame.REQUEST, {"call": call, **arguments}, prefix=wire.U32.pack(number))


class _Frames:
    """Frames that are no submission; otherwise as `Submission`. They may ask for the answer of a handle."""

    __slots__ = ("file", "frame", "handle", "went")

    def __init__(self, frame: bytes, handle: Handle | None = None, file: Descriptor | None = None) -> None:
        self.frame = frame
        self.handle = handle
        self.file = file
        self.went: list[int] = []


_Outgoing: TypeAlias = "Submission | Batch | _Frames"


def _submissions_of(outgoing: _Outgoing) -> Sequence[Submission]:
    if isinstance(outgoing, _Frames):
        return ()
    return outgoing.submissions if isinstance(outgoing, Batch) else (outgoing,)


class FrameSender:
    """The sending half of a connection. Its methods run under `exclusive`, all but `is_busy` and `post`.

    Whatever is sent is `_under_way` from before its first byte to after its last, and has a note of how many bytes have
    gone. So a thread that gives up in between, or is interrupted, leaves nothing that the next one does not understand.
    What is `_owed` is sent before anything else, whatever becomes of the thread that owes it.
    """

    def __init__(self, sock: socket.socket, submit_timeout: float, lifecycle: Lifecycle, entries: Entries) -> None:
        self.exclusive = Exclusive()
        self._socket = sock
        self._send_bytes = sock.send
        self._submit_timeout = submit_timeout
        self._lifecycle = lifecycle
        self._entries = entries
        self._under_way: _Outgoing | None = None
        self._owed: deque[bytes] = deque()

    @property
    def is_busy(self) -> bool:
        """Whether a frame is under way; looked at without the lock."""
        return self._under_way is not None

    def submit(self, submission: Submission, route: object) -> None:
        """Enter a submission and send its frame, its file with it; `route` is the connection that the handle is told of.

        Raise as `send`; the submission was not entered then.
        """
        if self._under_way is not None or self._owed or self._lifecycle.state is not OPEN:
            self._begin()
        submission.sent_at = monotonic()
        self._under_way = submission
        try:
            self._entries.enter(submission, route)
            try:  # as `_push` does, and in place: this runs for every job
                if submission.file is None:
                    submission.went.extend(map(self._send_bytes, (submission.frame,), _FLAGS))
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                pass
            if not submission.went or submission.went[0] != len(submission.frame):
                self._push(submission)
        except BaseException:
            self._give_up()
            raise
        self._entries.note_sent(submission)
        self._under_way = None

    def submit_many(self, batch: Batch, route: object) -> None:
        """Enter the submissions of a batch and send it, as `submit` does; where it raises, none was entered."""
        self._begin()
        for frame, file in batch.stages():
            self._send(frame, file)
        now = monotonic()
        for submission in batch.submissions:
            submission.sent_at = now
        self._under_way = batch
        try:
            self._entries.enter_many(batch.submissions, route)
            self._push(batch)
        except BaseException:
            self._give_up()
            raise
        self._entries.note_sent(batch.submissions[-1])
        self._under_way = None

    def send(self, frames: bytes, file: Descriptor | None = None) -> None:
        """Send frames behind the rest of those before; wait at most `submit_timeout` seconds for each of both.

        Raise SubmitTimeout, and SupervisorLost if the other side has gone.
        """
        self._begin()
        self._send(frames, file)

    def watch(self, handle: Handle, route: object) -> Handle:
        """Enter a handle and ask for its answer, as `submit` does; return the handle that will get it."""
        self._begin()
        frame = wire.frame(Frame.WATCH, handle.raw_id)
        known = self._entries.handles.get(handle.raw_id)
        if known is not None:
            # Asked for once more: the thread that entered it may have been interrupted. It has a receiver, come what may.
            with contextlib.suppress(SupervisorLost):
                self._send(frame)
            return known
        self._under_way = outgoing = _Frames(frame, handle)
        try:
            self._entries.handles[handle.raw_id] = handle
            handle.sent_over(route, 0)
            self._push(outgoing)
        except BaseException:
            self._give_up()
            raise
        self._under_way = None
        return handle

    def send_owed(self, frame: bytes) -> None:
        """Send a frame as `send` does; if the other side takes no bytes now, it is sent before whatever comes next."""
        self._owed.append(frame)
        self._begin()

    def _send(self, frames: bytes, file: Descriptor | None = None) -> None:
        self._under_way = outgoing = _Frames(frames, None, file)
        try:
            self._push(outgoing)
        except BaseException:
            self._give_up()
            raise
        self._under_way = None

    def send_if_free(self, frame: bytes) -> None:
        """Send a frame where the socket takes it just now, and begin it only if nothing else is under way."""
        if self._under_way is None and not self._lifecycle.is_lost:
            self._under_way = outgoing = _Frames(frame)
            with contextlib.suppress(OSError):  # the supervisor has gone; the receiver sees it too
                self._push_once(outgoing)
            if sum(outgoing.went) in {0, len(frame)}:
                self._under_way = None

    def settle(self) -> None:
        """Finish or undo what an interrupted thread has left, as far as the other side takes bytes now."""
        with contextlib.suppress(SubmitTimeout, SupervisorLost):
            self._begin()

    def end(self) -> None:
        """Note that nothing is sent any more. A submission whose thread was interrupted is not sent elsewhere."""
        self._give_up()
        self._under_way = None

    def _begin(self) -> None:
        """Finish or undo whatever was left half done; raise as `send`."""
        if self._lifecycle.state is not OPEN and self._lifecycle.is_lost:
            raise SupervisorLost("the connection to the supervisor was lost")
        if self._under_way is not None:
            self._finish()
        while self._owed:
            self._send(self._owed[0])
            self._owed.popleft()

    def _finish(self) -> None:
        """Send the rest of what another thread has begun. A submission is cancelled then: nobody has its handle."""
        self._give_up()
        former = self._under_way
        if former is None:
            return
        submissions = _submissions_of(former)
        if submissions:
            cancel = b"".join(request_frame("cancel", id=one.handle.raw_id.hex()) for one in submissions)
            if not former.frame.endswith(cancel):
                former.frame += cancel  # with the rest: between the two, a worker that waits for a job would begin it
        self._push(former)
        if submissions:
            self._entries.note_sent(submissions[-1])
        self._under_way = None

    def _give_up(self) -> None:
        """Take out the submission under way, and forget what was not begun."""
        outgoing = self._under_way
        if outgoing is None:
            return
        self._entries.withdraw_many(_submissions_of(outgoing))
        if not sum(outgoing.went):
            if isinstance(outgoing, _Frames) and outgoing.handle is not None:
                self._entries.handles.pop(outgoing.handle.raw_id, None)
            self._under_way = None

    def _push(self, outgoing: _Outgoing) -> None:
        """Send what has not gone yet, as long as the other side takes bytes."""
        went, whole = outgoing.went, len(outgoing.frame)
        try:
            if not went:
                self._push_once(outgoing)
            if went and went[0] == whole:
                return
            deadline = monotonic() + self._submit_timeout
            while sum(went) < whole:
                self._wait_writable(deadline)
                self._push_once(outgoing)
        except (BrokenPipeError, ConnectionResetError):
            self._lifecycle.move_to(ConnectionState.LOST)  # the receiver sees it too, and settles what is awaited
            raise SupervisorLost("the supervisor has gone") from None

    def _push_once(self, outgoing: _Outgoing) -> None:
        """Let the kernel take what it can, and note how much that was, in one call of C: no exception can come between."""
        went, file = outgoing.went, outgoing.file
        data = outgoing.frame[sum(went) :] if went else outgoing.frame
        with contextlib.suppress(BlockingIOError):
            if file is None or went:
                went.extend(map(self._send_bytes, (data,), _FLAGS))
            else:
                went.extend(map(self._socket.sendmsg, ([data],), (pack_descriptor(file),), _FLAGS))

    def _wait_writable(self, deadline: float) -> None:
        poll = original("select", "poll")()
        poll.register(self._socket, select.POLLOUT)
        if not poll.poll(max(deadline - monotonic(), 0.0) * 1000):
            raise SubmitTimeout(
                f"the supervisor took no bytes for {self._submit_timeout:g} s: is it stopped (SIGSTOP), or is the host "
                "overloaded? The job was not submitted"
            )

    def post(self, frames: bytes, file: Descriptor | None = None) -> None:
        """Send frames, the first one with a file, from any thread; raise as `send`."""
        self.exclusive.run(self.send, frames, file)
