"""One process's connection to a supervisor: frames out from any thread, answers in on one receiver thread.

1. What is sent under the lock is sent whole, or its rest is kept and sent before anything else.
2. The receiver thread only moves bytes: it unpickles nothing and runs no code of a job.
3. A job is entered before its frame is sent, so its answer always finds it.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from procjobs.client.job import Job
from procjobs.client.kinds import KindRegistry
from procjobs.clock import monotonic
from procjobs.config import JobOptions
from procjobs.errors import PayloadError, PoolClosed, SubmitTimeout, SupervisorLost, SupervisorRefused
from procjobs.host import payload
from procjobs.shared import wire
from procjobs.shared.wire import HEADER, SUBMIT, Frame, FrameReader, WireError

_FD_SPACE: Final = socket.CMSG_SPACE(253 * 4)
_READ_BYTES: Final = 64 * 1024  # see procjobs.supervisor.links
REQUEST_TIMEOUT: Final = 30.0


class Connection:
    """A connection that has said hello. It serves the process that made it; a forked child makes its own."""

    def __init__(self, sock: socket.socket, directory: str, *, submit_timeout: float) -> None:
        self._socket = sock
        self._directory = directory
        self._submit_timeout = submit_timeout
        self.pid = os.getpid()
        self.lost = False
        self.welcome: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._reader = FrameReader()
        self._fds: deque[int] = deque()
        self._kinds = KindRegistry()
        self._jobs: dict[bytes, Job[Any]] = {}
        self._replies: dict[int, dict[str, Any] | None] = {}
        self._requests = 0
        self._unsent = b""
        self._sent = 0
        self._accepted = 0
        self._closing = False
        self._closes_when_idle = False
        self._receiving = False
        self._receiver: threading.Thread | None = None
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
                for frame in self._reader.feed(data):
                    if frame.kind == Frame.REFUSED:
                        raise SupervisorRefused(str(wire.parse_json(frame.body).get("message")))
                    self._take(frame)
        except TimeoutError:
            raise SupervisorLost(
                f"the supervisor did not answer within {REQUEST_TIMEOUT:g} s: is it stopped (SIGSTOP)?"
            ) from None
        except (OSError, WireError) as error:
            raise SupervisorLost(f"the supervisor ended while this process said hello: {error}") from error
        self._socket.settimeout(None)

    # Out ------------------------------------------------------------------------------------------------------

    def submit(
        self, job: Job[Any], function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: JobOptions,
        delay: float, expires: float, key: bytes,
    ) -> None:
        """Pickle a call and send it; raise PayloadError, SubmitTimeout or SupervisorLost if that cannot be done."""
        with self._lock:
            registered, frames = self._kinds.look_up(function, options)
            if frames:
                try:
                    self._send(frames)
                except BaseException:
                    self._kinds.forget()
                    raise
        call = (function, args, kwargs) if registered.carries_function else (args, kwargs)
        try:
            inline, fd = payload.dump(call, self._directory, args)
        except Exception as error:
            raise PayloadError(_explain(call, job.name, error)) from error
        job_id = job._job_id  # noqa: SLF001 - the property makes text of it, this is for every job
        head = HEADER.pack(45 + len(key) + len(inline), Frame.SUBMIT, fd is not None, 0)
        data = head + SUBMIT.pack(job_id, registered.number, delay, expires, len(key)) + key + inline
        try:
            with self._lock:
                is_known = self._kinds.is_known(registered)
                if is_known:
                    self._enter_and_send(job, data, fd)
        finally:
            if fd is not None:
                os.close(fd)
        if not is_known:  # another thread had the supervisor forget all kinds while this one pickled
            self.submit(job, function, args, kwargs, options, delay, expires, key)
        elif self._receiver is None:
            self._start_receiver()

    def _enter_and_send(self, job: Job[Any], data: bytes, fd: int | None) -> None:
        job_id = job._job_id  # noqa: SLF001 - see submit
        self._jobs[job_id] = job
        job.sent_over(self, self._sent + 1)
        try:
            self._send(data, fd)
        except BaseException:
            self._jobs.pop(job_id, None)
            if self._unsent and not self.lost:  # a part is under way and cannot be called back: a cancellation follows it
                self._sent += 1
                cancel = {"call": "cancel", "id": job_id.hex()}
                self._unsent += wire.json_frame(Frame.REQUEST, cancel, prefix=wire.U32.pack(0))
            raise
        self._sent += 1

    def _send(self, data: bytes, fd: int | None = None) -> None:
        """Send under the lock, waiting for room at most `submit_timeout`."""
        if self.lost:
            raise SupervisorLost("the connection to the supervisor was lost")
        try:
            if self._unsent:
                self._send_rest(None)
            sent = self._try_send(data, fd)
            if sent == len(data):
                return
            if sent == 0:
                self._wait_writable(monotonic() + self._submit_timeout)
                sent = self._try_send(data, fd)
            self._unsent = data[sent:]
            self._send_rest(data)
        except (BrokenPipeError, ConnectionResetError):
            self._lose()
            raise SupervisorLost("the supervisor has gone") from None

    def _try_send(self, data: bytes, fd: int | None) -> int:
        try:
            if fd is None:
                return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            return socket.send_fds(self._socket, [data], [fd], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0

    def _send_rest(self, own: bytes | None) -> None:
        """Send what is left of a frame. If time runs out before any of `own` was sent, it is taken back."""
        deadline = monotonic() + self._submit_timeout
        while self._unsent:
            try:
                self._wait_writable(deadline)
            except SubmitTimeout:
                if own is not None and len(self._unsent) == len(own):
                    self._unsent = b""
                raise
            self._unsent = self._unsent[self._try_send(self._unsent, None) :]

    def _wait_writable(self, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        if not poll.poll(max(deadline - monotonic(), 0.0) * 1000):
            raise SubmitTimeout(
                f"the supervisor (pid {self.welcome.get('pid')}) took no bytes for {self._submit_timeout:g} s: is it "
                "stopped (SIGSTOP), or is the host overloaded? The job was not submitted"
            )

    def request(self, call: str, *, timeout: float | None = REQUEST_TIMEOUT, **arguments: Any) -> dict[str, Any]:
        """Ask the supervisor and wait for its reply; raise SupervisorLost if there is none."""
        number = self._send_request(call, arguments, expected=True)
        if self._receiver is None:
            self._start_receiver()
        with self._changed:
            answered = self._changed.wait_for(lambda: self._replies[number] is not None or self.lost, timeout)
            reply = self._replies.pop(number)
        if reply is not None:
            return reply
        what = "went away before it answered" if answered else f"did not answer within {timeout:g} s"
        raise SupervisorLost(f"the supervisor {what} ({call})")

    def _send_request(self, call: str, arguments: dict[str, Any], *, expected: bool) -> int:
        with self._lock:
            number = 0
            if expected:
                self._requests = number = self._requests % 0x7FFF_FFFF + 1
                self._replies[number] = None
            try:
                self._send(wire.json_frame(Frame.REQUEST, {"call": call, **arguments}, prefix=wire.U32.pack(number)))
            except BaseException:
                self._replies.pop(number, None)
                raise
        return number

    def ask_to_stop(self) -> None:
        """Ask the supervisor to end the pool; nothing is waited for."""
        with contextlib.suppress(SupervisorLost, SubmitTimeout):
            self._send_request("stop", {}, expected=False)

    def drop_job(self, job: Job[Any]) -> None:
        """Cancel a job whose handle was cancelled; nothing is waited for."""
        self._jobs.pop(job._job_id, None)  # noqa: SLF001 - see submit
        try:
            self._send_request("cancel", {"id": job._job_id.hex()}, expected=False)  # noqa: SLF001 - see submit
        except (SupervisorLost, SubmitTimeout):
            return  # with the supervisor, the job goes too; a stopped one has stopped workers' answers as well

    def watch(self, job: Job[Any]) -> Job[Any]:
        """Ask for the answer of a job that another process submitted; return the handle that will get it."""
        job_id = job._job_id  # noqa: SLF001 - see submit
        with self._lock:
            known = self._jobs.setdefault(job_id, job)
            if known is job:
                job.sent_over(self, 0)
                self._send(wire.frame(Frame.WATCH, job_id))
        if self._receiver is None:
            self._start_receiver()
        return known

    # In -------------------------------------------------------------------------------------------------------

    def _start_receiver(self) -> None:
        with self._changed:
            if self._receiver is None:
                self._receiving = True
                self._receiver = threading.Thread(target=self._receive, name="procjobs-receiver", daemon=True)
                self._receiver.start()

    def _receive(self) -> None:
        try:
            while True:
                flags = socket.MSG_CMSG_CLOEXEC
                data, ancillary, _, _ = self._socket.recvmsg(_READ_BYTES, _FD_SPACE, flags)
                for _, _, content in ancillary:
                    self._fds.extend(array.array("i", content[: len(content) // 4 * 4]))
                if not data:
                    break
                for frame in self._reader.feed(data):
                    self._take(frame)
                if self._closes_when_idle and not self._jobs:
                    break
        except (OSError, WireError):
            pass  # the supervisor was killed, this process has closed the connection, or nonsense came: all end here
        finally:
            while self._fds:
                os.close(self._fds.popleft())
            self._lose()
            with self._changed:
                self._receiving = False
                if self._closes_when_idle:
                    self._socket.close()

    def _take(self, frame: wire.RawFrame) -> None:
        if frame.kind == Frame.FINISHED:
            finished = wire.parse_finished(frame.body)
            if frame.has_descriptor and not self._fds:
                raise WireError("a descriptor did not come: the limit of open files is reached")
            fd = self._fds.popleft() if frame.has_descriptor else None
            job = self._jobs.pop(finished.job_id, None)
            if job is not None:
                self._settle(job, finished, fd)
            elif fd is not None:
                os.close(fd)
        elif frame.kind == Frame.ACCEPTED:
            with self._changed:
                self._accepted = int.from_bytes(frame.body, "little")
                self._changed.notify_all()
        elif frame.kind == Frame.REPLY:
            number, reply = int.from_bytes(frame.body[:4], "little"), wire.parse_json(frame.body[4:])
            with self._changed:
                if number in self._replies:
                    self._replies[number] = reply
                    self._changed.notify_all()
        elif frame.kind == Frame.NOTICE:
            self.on_notice(wire.parse_json(frame.body).get("problem"))
        elif frame.kind == Frame.WELCOME:
            self.welcome = _checked_welcome(wire.parse_json(frame.body))

    @staticmethod
    def _settle(job: Job[Any], finished: wire.Finished, fd: int | None) -> None:
        try:
            received = payload.Received(finished.payload, fd)
        except OSError as error:  # ENOMEM: too many mappings, or no address space
            job.abandon(PayloadError(f"the result of job {job.id} {job.name} could not be mapped: {error}"))
        else:
            job.settle(finished, received)

    def _lose(self) -> None:
        """End every wait: the supervisor has gone, or this process has let go of it."""
        self.lost = True
        with self._changed:
            self._changed.notify_all()
        while self._jobs:
            _, job = self._jobs.popitem()
            if self._closing:
                job.abandon(PoolClosed(f"the pool was shut down while job {job.id} was awaited"))
            else:
                job.abandon(
                    SupervisorLost(
                        f"the supervisor (pid {self.welcome.get('pid')}) went away before job {job.id} {job.name} was "
                        "answered; whether it ran is not known. Submit it again if that does no harm"
                    )
                )

    def wait_accepted(self, sequence: int, timeout: float | None) -> None:
        """Wait until the supervisor has taken that many submissions of this connection."""
        if self._receiver is None:
            self._start_receiver()
        with self._changed:
            if not self._changed.wait_for(lambda: self._accepted >= sequence or self.lost, timeout):
                raise TimeoutError("the supervisor has not acknowledged the job yet")
            if self._accepted < sequence:
                raise SupervisorLost("the supervisor went away before it acknowledged the job")

    def wait_all_accepted(self, timeout: float) -> None:
        """Wait until the supervisor has taken all that was submitted until now."""
        self.wait_accepted(self._sent, timeout)

    def outstanding(self) -> list[Job[Any]]:
        """Return the jobs whose answers are awaited."""
        return list(self._jobs.values())

    def unaccepted(self) -> int:
        """Return how many submissions are under way to the supervisor."""
        return self._sent - self._accepted

    def close_when_idle(self) -> None:
        """Close the connection when the last awaited answer has arrived, or the supervisor has gone."""
        self._closes_when_idle = True
        if self._receiver is None or not self._jobs:
            self.close()

    def close(self, *, wait: bool = True) -> None:
        """Close the connection; `wait` for the receiver thread to end, which may be in a callback of the user's."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        receiver = self._receiver
        if wait and receiver is not None and receiver is not threading.current_thread():
            receiver.join()
        self._lose()
        with self._changed:
            self._closes_when_idle = True
            if not self._receiving:  # else the receiver closes it: nobody may take its number while it is in use
                self._socket.close()

    def wait_for_end(self, timeout: float | None) -> None:
        """Wait until the supervisor has closed the connection."""
        if self._receiver is None:
            self._start_receiver()
        receiver = self._receiver
        if receiver is not None and receiver is not threading.current_thread():
            receiver.join(timeout)

    def close_inherited(self) -> None:
        """Close this copy of the descriptor in a forked child; the parent's connection is not touched."""
        self._socket.close()


def _checked_welcome(welcome: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(welcome.get("pid"), int) or not isinstance(welcome.get("settings"), dict) or "problem" not in welcome:
        raise WireError("a WELCOME without the pid, the settings or the problem")
    return welcome


def _ignore(_problem: str | None) -> None:
    pass


def _explain(call: tuple[Any, ...], name: str, error: Exception) -> str:
    """Return which part of a call cannot be pickled."""
    *function, args, kwargs = call
    parts = [("the function", f) for f in function]
    parts += [(f"argument {n}", value) for n, value in enumerate(args)] + [(f"argument {k!r}", v) for k, v in kwargs.items()]
    for what, value in parts:
        try:
            payload.dump_inline(value)
        except Exception as own:  # noqa: BLE001 - it is reported
            return f"{what} of {name}, of type {type(value).__name__}, cannot be pickled: {own}"
    return f"the call of {name} cannot be pickled: {error}"
