"""The supervisor's side of the process that calls hooks (procjobs.worker.hooks).

There is at most one. It is forked by the template of the newest code when a call is due, makes one call at a time, and ends
when there was nothing to do for some seconds. A call that takes longer than `hook_timeout` is ended with its process, and
so is one that dies or sends nonsense; another process is forked for the next one.
"""

from __future__ import annotations

import json
import signal
import socket
from typing import TYPE_CHECKING, Final

from procjobs.clock import NEVER
from procjobs.dispatch.failures import describe_end
from procjobs.host import process
from procjobs.shared.wire import WireError, parse_json

if TYPE_CHECKING:
    from procjobs.dispatch.model import Generation
    from procjobs.host.loop import Loop
    from procjobs.supervisor.pending_hooks import HookCall, PendingHooks
    from procjobs.supervisor.workers.events import HooksForked, HooksRefused
    from procjobs.supervisor.workers.templates import Templates

_MAX_MESSAGE_BYTES: Final = 64 * 1024
_RETRY_PAUSE: Final = 0.5
"""How long to wait where no template can fork now."""
_IDLE_TIMEOUT: Final = 5.0
_FORK_TIMEOUT: Final = 30.0


class HookSource:
    """The process that calls hooks, or one that is about to be forked: then `pid` is 0. The loop hands this out."""

    __slots__ = ("call", "generation", "pid", "socket", "until")

    def __init__(self, generation: Generation, sock: socket.socket, until: float) -> None:
        self.generation = generation
        self.socket = sock
        self.pid = 0
        self.call: HookCall | None = None
        self.until = until  # of the fork, of the call, or of doing nothing


class HookRunner:
    """Makes the calls that are pending."""

    def __init__(self, loop: Loop, templates: Templates, pending: PendingHooks, timeout: float) -> None:
        self._loop = loop
        self._templates = templates
        self._pending = pending
        self._timeout = timeout
        self._source: HookSource | None = None
        self._problem = ""
        self._not_before = 0.0

    def pids(self) -> set[int]:
        """Return the pid of the process, if there is one."""
        return {self._source.pid} if self._source is not None and self._source.pid else set()

    # Turns of the loop ------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Return when something is to be done."""
        source = self._source
        if source is None:
            return max(self._pending.next_time(), self._not_before)
        if source.pid and source.call is None:
            return min(source.until, self._pending.next_time())
        return source.until

    def extend_deadlines(self, seconds: float) -> None:
        """Give the call more time: the supervisor was away for so long."""
        if self._source is not None and self._source.until < NEVER:
            self._source.until += seconds

    def advance(self, now: float, generation: Generation | None) -> None:
        """Do what is due. `generation` is the newest code, whose template forks."""
        source = self._source
        if source is None:
            if max(self._pending.next_time(), self._not_before) <= now:
                self._begin(generation, now)
        elif source.call is not None or not source.pid:
            if source.until <= now:
                self._problem = f"it did not end within {self._timeout:g} s (hook_timeout)"
                self._give_up(source, now)
        elif source.until <= now or source.generation is not generation:
            source.until = NEVER
            source.socket.shutdown(socket.SHUT_WR)  # it ends by itself
        elif source.until < NEVER:
            self._make_next_call(source, now)

    def _begin(self, generation: Generation | None, now: float) -> None:
        """Have a process forked, if a template can do it."""
        self._not_before = now + _RETRY_PAUSE
        if generation is None or not generation.ready:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                is_asked = self._templates.fork_hooks(generation, theirs.fileno())
            except OSError:
                is_asked = False
        if not is_asked:
            ours.close()
            return
        ours.setblocking(False)
        self._source = HookSource(generation, ours, now + _FORK_TIMEOUT)
        self._loop.add(ours.fileno(), self._source)

    def _make_next_call(self, source: HookSource, now: float) -> None:
        call = self._pending.take_due(now)
        if call is None:
            return
        source.call = call
        source.until = now + self._timeout
        try:
            source.socket.send(json.dumps({"hook": call.hook, "record": call.record}).encode())
        except OSError as error:
            self._problem = f"it could not be given its record: {error}"
            self._give_up(source, now)

    def _give_up(self, source: HookSource, now: float) -> None:
        """End the process; the call has failed when it is reaped."""
        source.until = NEVER
        if source.pid:
            process.kill_group(source.pid, signal.SIGKILL)
        else:
            self._drop(source, now)

    # Events -----------------------------------------------------------------------------------------------------

    def on_forked(self, event: HooksForked) -> None:
        """Note the pid of the process; raise ValueError for one that cannot be."""
        source = self._source
        if not isinstance(event.pid, int) or event.pid <= 1:
            raise ValueError(f"the process for hooks cannot be {event.pid!r}")
        if source is None or source.pid or source.generation is not event.generation:
            process.kill_process(event.pid, signal.SIGKILL)  # nobody waits for it any more
            return
        source.pid = event.pid
        source.until = self._loop.now + _IDLE_TIMEOUT

    def on_refused(self, _event: HooksRefused) -> None:
        """Try again in a moment: no process could be forked."""
        if self._source is not None and not self._source.pid:
            self._drop(self._source, self._loop.now)

    def read(self, source: HookSource) -> None:
        """Read how a call ended; a process that sends nonsense is killed."""
        if source is not self._source:
            return
        try:
            message = source.socket.recv(_MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._on_closed(source)
            return
        try:
            self._settle(source, str(parse_json(message)["problem"]))
        except (WireError, KeyError) as error:
            self._problem = f"its process sent nonsense: {error!r}"
            self._give_up(source, self._loop.now)

    def _on_closed(self, source: HookSource) -> None:
        """The process has ended, which SIGCHLD tells, or its template before it could fork."""
        self._loop.remove(source.socket.fileno())
        if not source.pid:
            self._drop(source, self._loop.now)

    def _settle(self, source: HookSource, problem: str) -> None:
        now = self._loop.now
        call, source.call = source.call, None
        source.until = now + _IDLE_TIMEOUT
        if call is None:
            raise WireError("an answer to no call")
        if problem:
            self._pending.fail(call, problem, now)
        else:
            self._pending.done(call)
        self._make_next_call(source, now)

    def before_reaping(self, pid: int) -> None:
        """Kill everything that the process has started in its group, while its pid is taken."""
        if pid in self.pids():
            process.kill_group(pid, signal.SIGKILL)

    def on_exit(self, exited: process.Exit) -> bool:
        """Note the end of a process; return whether it was this one. A call that it was in has failed."""
        source = self._source
        if source is None or source.pid != exited.pid:
            return False
        self.read(source)  # its last answer
        self._templates.forget_worker(source.generation, exited.pid)
        call, source.call = source.call, None
        self._drop(source, self._loop.now)
        self._not_before = 0.0
        problem, self._problem = self._problem, ""
        if call is not None:
            how = problem or f"its process has ended: {describe_end(exited.signal, exited.code)}"
            self._pending.fail(call, how, self._loop.now)
        return True

    def _drop(self, source: HookSource, now: float) -> None:
        self._loop.remove(source.socket.fileno())
        source.socket.close()
        self._source = None
        self._not_before = now + _RETRY_PAUSE

    def close(self) -> None:
        """End the process."""
        source = self._source
        self._pending.close()
        if source is not None:
            if source.pid:
                process.kill_group(source.pid, signal.SIGKILL)
                process.wait_for_child(source.pid, _FORK_TIMEOUT)
            self._drop(source, self._loop.now)
