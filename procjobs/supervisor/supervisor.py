"""The supervisor process of a pool.

1. It has one thread and one loop, and only `Loop.wait` blocks.
2. It never runs users' code and never unpickles; payloads pass through as bytes and descriptors.
3. It trusts no byte it reads: a link that sends nonsense is closed, and nobody else notices.
4. It alone writes the states of jobs and workers into the shared table.
5. It is the parent of every worker and the subreaper of everything they start: processes that a dead worker leaves running
   are killed.
6. Deadlines are monotonic. If it was itself away at a deadline (stopped, suspended), it pushes them back.
7. When it has stopped, nothing of the pool is left: no process, no file.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from procjobs.clock import NEVER
from procjobs.host import observe, threads
from procjobs.shared.wire import WireError
from procjobs.supervisor.clients.client_link import ClientLink
from procjobs.supervisor.clients.connections import Connections
from procjobs.supervisor.durable.durability import Backlog, Committed, Duplicate, LoadedJob, StoreEvent
from procjobs.supervisor.durable.recorder_process import RecorderSource
from procjobs.supervisor.owner import Owner
from procjobs.supervisor.workers.hook_runner import HookSource
from procjobs.supervisor.workers.output import OutputSource
from procjobs.supervisor.workers.processes import WorkerProcess
from procjobs.supervisor.workers.stacks import StackSource
from procjobs.supervisor.workers.templates import Templates

if TYPE_CHECKING:
    import socket

    from procjobs.dispatch.model import Generation
    from procjobs.supervisor.composition import Ground, Parts

SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_MAX_LATENESS: Final = 0.25
"""Waking later than this after a deadline means that the supervisor was not there, not that the host was busy."""
_ORPHANS_TIMEOUT: Final = 1.0


class Supervisor:
    """Turns the loop of one pool: reads, decides, sends, and sleeps until the next deadline."""

    def __init__(self, ground: Ground, parts: Parts) -> None:
        self._loop, self._log, self._console = ground.loop, ground.log, ground.console
        self._registry = parts.registry
        self._durability = parts.durability
        self._dispatcher = parts.dispatcher
        self._children = parts.children
        self._generations = parts.generations
        self._lifecycle = parts.lifecycle
        self._admission = parts.admission
        self._connections = parts.connections
        self._publisher = parts.publisher
        self._hand_over = parts.hand_over
        self._schedules = parts.schedules
        self._owner = Owner(ground.loop, ground.owner_pid)
        self._readers: dict[type, Callable[[Any, int], None]] = {
            ClientLink: parts.connections.read,
            WorkerProcess: parts.children.read_worker,
            StackSource: parts.children.read_stack,
            Templates: parts.children.read_templates,
            HookSource: parts.children.read_hooks,
            Connections: lambda connections, _: connections.accept(),
            RecorderSource: lambda _, events: self._durability.read(events, self._on_store_event),
            OutputSource: lambda _, _events: None,  # it was read before the others
        }

    @property
    def peaks(self) -> observe.WorkerPeaks:
        """The memory that workers took, for the next run of this pool."""
        return self._children.workers.usage.peaks

    # The loop ---------------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Serve until the pool has stopped; return False if it has lost its jobs to another supervisor."""
        assert threads.thread_count() == 1, "the supervisor has one thread"
        self._connections.listen()
        self._owner.listen(self._on_owner_gone)
        while not self._lifecycle.is_over(self._loop.now, self._have_all_read):
            until = self._next_deadline()
            woke_before = self._loop.now
            ready = self._loop.wait(None if until == NEVER else until)
            self._publisher.publish_trend(self._loop.now)
            if self._durability.loss:  # before anything else: the host may have been suspended for an hour
                return False
            self._extend_deadlines_if_late(max(until, woke_before))
            self._handle_signals(ready.signals)
            self._read(ready.sources)
            self._children.reap()
            if self._registry.has_answers and self._lifecycle.accepts_jobs:
                self._send_answers()  # clients that wait for an answer are served first: the rest of the turn takes longer
            self._advance()
            self._send_answers()
            self._registry.close_spent_fds()
            self._publisher.publish_slots(self._loop.now)
            self._children.kill_orphans()
        return True

    def _have_all_read(self) -> bool:
        if self._lifecycle.has_left:
            self._connections.tell_handed_over(self._loop.now)
        return (self._console is None or self._console.is_empty) and self._connections.have_all_read

    def _next_deadline(self) -> float:
        now = self._loop.now
        return min(
            self._dispatcher.next_deadline(now),
            self._registry.next_deadline(now),
            self._children.next_deadline(now),
            self._durability.next_deadline(),
            self._connections.next_deadline(),
            self._lifecycle.next_deadline(),
            self._owner.next_deadline(),
            self._schedules.next_deadline(),
        )

    def _extend_deadlines_if_late(self, expected: float) -> None:
        now = self._loop.now
        late = now - expected
        if late > _MAX_LATENESS and expected < NEVER:
            self._log.write(f"the supervisor was not running for {late:.1f} s; deadlines are pushed back")
            self._dispatcher.extend_deadlines(late, now)
            self._children.extend_deadlines(late, now)
            self._durability.extend_deadlines(now)

    def _handle_signals(self, signals: set[int]) -> None:
        now = self._loop.now
        if signals & {signal.SIGTERM, signal.SIGINT}:
            if self._lifecycle.accepts_jobs:
                self._log.write("SIGTERM: no more jobs are taken; those that run have the grace period to end")
                self._lifecycle.drain_in_grace_period(now)
            else:
                self._lifecycle.stop("the pool was stopped by a second SIGTERM", now, at_once=True)
        if signal.SIGHUP in signals:
            self._log.write("SIGHUP: the code is loaded anew")
            self._generations.reload(_ignore)

    def _read(self, sources: list[tuple[Any, int]]) -> None:
        """Read from everything that is ready; the output of jobs before their answers, so that it is known whose it is."""
        for source, _ in sources:
            if type(source) is OutputSource:
                self._children.workers.outputs.read(source)
        for source, events in sources:
            reader = self._readers.get(type(source))
            if reader is not None:
                reader(source, events)
            else:
                source()

    def _on_store_event(self, event: StoreEvent) -> None:
        """Let a job begin its life that is in the store now, or end it as the store has it."""
        if isinstance(event, Committed):
            self._admission.start(event.job)
        elif isinstance(event, LoadedJob):
            self._admission.take_loaded(event)
        elif isinstance(event, Duplicate):
            self._admission.withdraw_duplicate(*event)
        else:
            self._admission.drop_fenced(event.job)

    def _advance(self) -> None:
        """Do what is due, and give jobs to workers."""
        now = self._loop.now
        if self._owner.is_found_ended(now):
            self._on_owner_gone()
        self._admission.follow_clock()
        self._children.advance(now)
        self._dispatcher.advance(now)
        self._children.start_templates(now)
        self._connections.advance(now)
        self._registry.advance(now)
        self._hand_over.advance()
        self._schedules.advance(now)
        has_clients = self._connections.have_outsiders
        runs = 0 if has_clients else self._schedules.count_unfinished()
        self._lifecycle.advance(now, has_clients=has_clients, scheduled_runs=runs, leave=self._hand_over.leave)
        if not self._durability.is_too_far_behind:
            self._dispatcher.assign(now)
        self._generations.retire_unused(now)
        while self._dispatcher.nesting.refused:
            self._connections.refuse(self._dispatcher.nesting.refused.pop(0))
        while self._generations.declared:
            self._take_declared(*self._generations.declared.pop(0))
        while self._generations.notices:
            self._connections.warn(*self._generations.notices.pop(0))
        if self._publisher.publish_problem():
            self._connections.tell_problems()
        may_load = bool(self._dispatcher.generations) and not self._dispatcher.stopping
        self._durability.advance(now, self._backlog, may_load=may_load)

    def _take_declared(self, generation: Generation, bodies: list[bytes]) -> None:
        try:
            self._schedules.take_declared(generation, bodies)
        except WireError as error:
            self._children.kill_template(generation, error)

    def _backlog(self, count: int) -> Backlog:
        return Backlog(self._dispatcher.scheduled, self._dispatcher.saturated_queues(count))

    def _send_answers(self) -> None:
        """Send everything that waits for clients.

        The last answer of a drained pool goes out when it is closed to new clients: those start its successor. The counters
        are written before the acknowledgements go out.
        """
        self._registry.has_answers = False
        accepting, uncommitted = self._lifecycle.accepts_jobs, self._durability.uncommitted
        self._publisher.publish_counters(
            accepting=accepting, uncommitted=uncommitted, has_schedules=self._schedules.are_there
        )
        self._connections.flush(self._loop.now)

    # Ending -----------------------------------------------------------------------------------------------------

    def _on_owner_gone(self) -> None:
        self._owner.forget()
        self._lifecycle.stop("the process that owned the pool has ended", self._loop.now, at_once=True)

    def abdicate(self) -> None:
        """Kill everything that runs, at once: the jobs are another supervisor's. Clients see this one end without a word.

        The directory stays as after a kill, for the successor that they start.
        """
        self._log.write(f"this supervisor kills its runs and ends: {self._durability.loss}")
        for slot in self._dispatcher.slots:
            self._children.workers.kill(slot)
        self._children.close(_ORPHANS_TIMEOUT)

    def take_successor(self) -> socket.socket | None:
        """Return a socket to the process that takes the pool over, None if there is none."""
        return self._hand_over.take_successor()

    def close(self) -> None:
        """Release everything; the workers have ended."""
        self._registry.close_spent_fds()
        self._connections.close()
        self._children.close(_ORPHANS_TIMEOUT)
        self._schedules.close()
        self._publisher.close()
        self._durability.close()
        self._registry.close()
        self._loop.close()


def _ignore(_problem: str) -> None:
    """Nobody waits for the end of this reload; it is in the log."""
