"""The workers of a pool as processes: their pipes, their answers, the signals they get. The core's `Workers` port.

1. Every worker is a child of this process; its exit status comes from the kernel, after everything that it had sent.
2. A pid is used only while its process has not been reaped.
3. A worker that sends nonsense is killed, and its job counts as crashed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from procjobs.clock import NEVER
from procjobs.dispatch.limits import Sample, Stop
from procjobs.dispatch.model import Slot, SlotState
from procjobs.host import cpus, process, shortages
from procjobs.host.loop import Loop
from procjobs.shared import wire
from procjobs.shared.code_spec import check_texts
from procjobs.shared.wire import BODY, Finished, Frame, Outcome, WireError
from procjobs.supervisor.job import supervised
from procjobs.supervisor.workers.events import (
    CheckpointSaved,
    FilesLoaded,
    ForkRefused,
    InitFailed,
    SpawnFailed,
    StackDumped,
    WorkerEvent,
    WorkerExited,
    WorkerForked,
    WorkerReady,
    WorkerSpent,
)
from procjobs.supervisor.workers.output import OutputSource
from procjobs.supervisor.workers.stacks import Stacks, StackSource
from procjobs.supervisor.workers.usage import Usage
from procjobs.supervisor.workers.worker_link import WorkerLink

if TYPE_CHECKING:
    from procjobs.dispatch.model import Generation
    from procjobs.shared.config import PoolSettings
    from procjobs.supervisor.job import SupervisedJob
    from procjobs.supervisor.log import Log
    from procjobs.supervisor.publisher import SlotPublisher
    from procjobs.supervisor.registry import Registry
    from procjobs.supervisor.workers.output import Outputs
    from procjobs.supervisor.workers.templates import Templates

_FINISHED: Final = int(Frame.FINISHED)
_REST_TIMEOUT: Final = 5.0
"""How long the rest of a worker's frame may take: bytes that a job has written there itself could swallow every later
answer."""
_MAX_PROBLEM_BYTES: Final = 32_000

OnFinished: TypeAlias = Callable[[Slot, Finished, bytes, "int | None", float], "int | None"]
"""Takes an answer: (slot, its contents, the whole frame, descriptor, now); returns the descriptor if it is not wanted."""


class WorkerProcess:
    """One worker. The loop hands this out when it has answered."""

    __slots__ = ("cpus", "link", "outputs", "slot")

    def __init__(self, slot: Slot, link: WorkerLink, on_cpus: list[int]) -> None:
        self.slot = slot
        self.link = link
        self.cpus = on_cpus
        self.outputs = [OutputSource(slot, link.stdout, 1), OutputSource(slot, link.stderr, 2)]


class WorkerProcesses:
    """All workers, by slot."""

    def __init__(
        self, loop: Loop, settings: PoolSettings, log: Log, registry: Registry, templates: Templates,
        outputs: Outputs, publisher: SlotPublisher,
    ) -> None:  # fmt: skip
        self.outputs = outputs
        self.usage = Usage(registry.table)
        self._loop = loop
        self._log = log
        self._registry = registry
        self._templates = templates
        self._publisher = publisher
        self._affinity = settings.affinity
        self._max_workers = settings.workers[1]
        self._stacks = Stacks(loop)
        self._workers: dict[int, WorkerProcess] = {}
        self._by_pid: dict[int, WorkerProcess] = {}
        self._rests_due: dict[WorkerProcess, float] = {}  # until when the rest of a frame must arrive that has begun to

    def pids(self) -> set[int]:
        """Return the pids of the workers that have not been reaped."""
        return set(self._by_pid)

    # The core's port --------------------------------------------------------------------------------------------

    def spawn(self, slot: Slot) -> bool:
        """Begin to start a worker."""
        assert slot.generation is not None
        try:
            link = WorkerLink()
        except OSError as error:
            raise OSError(shortages.explain(error)) from error
        on_cpus = self._cpus_of(slot)
        is_asked = False
        try:
            is_asked = self._templates.spawn(slot.generation, slot.number, on_cpus, link.fds_for_worker())
        finally:
            if not is_asked:
                link.close()
        if not is_asked:
            return False
        link.close_worker_side()
        self._workers[slot.number] = worker = WorkerProcess(slot, link, on_cpus)
        for output in worker.outputs:
            self._loop.add(output.fd, output)
        self._loop.add(link.stack, StackSource(slot, link))
        self._loop.add(link.stream.pipe, worker)
        return True

    def send(self, slot: Slot, job: SupervisedJob) -> bool:
        """Give a worker a job."""
        return self._workers[slot.number].link.send(job)

    def reclaim(self, slot: Slot) -> list[bytes]:
        """Take from a worker the jobs that it has not read."""
        return self._workers[slot.number].link.reclaim()

    def has_begun(self, job: SupervisedJob) -> bool:
        """Return whether a worker has begun this attempt."""
        return self._registry.has_begun(job)

    def dump_stack(self, slot: Slot) -> None:
        """Ask a worker where it is, for the core."""
        self._stacks.ask(slot, self._workers[slot.number].link.stack)

    def interrupt(self, slot: Slot) -> None:
        """Have an exception raised in a worker's job, also where its processes are stopped.

        The slot in the table tells the worker for which job it is, and why, before the signal comes: a signal that is late
        hits no other job.
        """
        self._publisher.publish(slot, self._loop.now)
        if slot.pid:
            process.kill_process(slot.pid, process.SOFT_SIGNAL)
            if slot.stop is not Stop.NONE:
                process.kill_group(slot.pid, signal.SIGCONT)

    def terminate_children(self, slot: Slot) -> None:
        """Send SIGTERM to the programs of a job that waits in C code, perhaps for one of them."""
        job = supervised(slot.jobs[0])
        programs = self.usage.programs(slot, self._loop.now - self._publisher.in_job_since(slot))
        if programs and not self._registry.table.was_taken(slot.number, job.id, job.attempt):
            for pid in programs:
                process.kill_process(pid, signal.SIGTERM)

    def measure(self, slot: Slot) -> Sample:
        """Return the usage of a worker and its descendants."""
        return self.usage.measure(slot, self._loop.now)

    def terminate(self, slot: Slot) -> None:
        """Send SIGTERM to the process group of a worker without a job, and let one that is stopped notice it."""
        self._publisher.publish(slot, self._loop.now)
        if slot.pid:
            self.usage.note_peak(slot)
            process.kill_group(slot.pid, signal.SIGTERM)
            process.kill_group(slot.pid, signal.SIGCONT)

    def kill(self, slot: Slot) -> None:
        """Kill a worker and its process group; one that has not been forked yet, with the template that was to do it."""
        if slot.pid:
            process.kill_group(slot.pid, signal.SIGKILL)
        elif slot.generation is not None:
            self._templates.kill(slot.generation)

    def retire(self, slot: Slot) -> None:
        """Let a worker end when it has no more to read."""
        self.usage.note_peak(slot)
        self._workers[slot.number].link.end_jobs()

    # For clients ------------------------------------------------------------------------------------------------

    def ask_stack(self, slot: Slot, waiter: Callable[[str], None]) -> None:
        """Ask a worker where it is; `waiter` gets the text."""
        self._stacks.ask(slot, self._workers[slot.number].link.stack, waiter)

    def resize(self, max_workers: int) -> None:
        """Give each worker the CPUs that are its own now; processes that its job has started keep theirs."""
        self._max_workers = max_workers
        for worker in self._by_pid.values():
            self._pin(worker)

    def _pin(self, worker: WorkerProcess) -> None:
        wanted = self._cpus_of(worker.slot)
        if wanted != worker.cpus:
            worker.cpus = wanted
            cpus.pin(wanted, worker.slot.pid)

    def _cpus_of(self, slot: Slot) -> list[int]:
        """Return the CPUs that a worker is to run on, none if it may use all."""
        usable = cpus.usable_cpu_numbers()
        return cpus.cpus_of_slot(slot.number, self._affinity, workers=self._max_workers, usable=usable)

    # Answers ----------------------------------------------------------------------------------------------------

    def read(self, worker: WorkerProcess, on_finished: OnFinished) -> list[WorkerEvent]:
        """Read the frames of a worker: answers go to `on_finished`, other events are returned."""
        link = worker.link
        if link.closed:  # in this very turn; its descriptors may be others' by now
            return []
        events: list[WorkerEvent] = []
        try:
            for kind, raw, fd in link.stream.read():
                if kind == _FINISHED:
                    self._read_answer(worker, raw, fd, on_finished)
                elif kind == Frame.CHECKPOINT and fd is None:
                    events.append(self._note_checkpoint(worker.slot, raw[BODY:]))
                else:
                    events += _parse_event(worker.slot, kind, raw, fd)
            if not link.stream.has_part:
                self._rests_due.pop(worker, None)
            elif not link.stream.drained:
                self._await_rest(worker)
        except WireError as error:
            self._kill_for_protocol_error(worker, str(error))
        if link.stream.ended:
            self._loop.remove(link.stream.pipe)
        return events

    def _read_answer(self, worker: WorkerProcess, raw: bytes, fd: int | None, on_finished: OnFinished) -> None:
        answer = _parse_answer(raw, fd)
        worker.link.confirm(answer.job_id)
        if self.outputs.is_pausing:
            for output in worker.outputs:
                self.outputs.read_paused(output)
        unwanted = on_finished(worker.slot, answer, raw, fd, self._loop.now)
        if unwanted is not None:
            os.close(unwanted)

    def _note_checkpoint(self, slot: Slot, job_id: bytes) -> CheckpointSaved:
        """Note that a job may have a checkpoint, before its answer is read that may follow."""
        job = next((job for job in slot.jobs if job.id == job_id), None)
        if job is None:
            raise WireError("a checkpoint of a job that it was not sent")
        self._registry.note_checkpoint(supervised(job))
        return CheckpointSaved(job)

    def _await_rest(self, worker: WorkerProcess) -> None:
        """Expect the rest of a frame soon; raise WireError if none can be under way."""
        if worker.slot.state is SlotState.IDLE:
            raise WireError("something followed its last answer")
        self._rests_due[worker] = self._loop.now + _REST_TIMEOUT

    def _kill_for_protocol_error(self, worker: WorkerProcess, why: str) -> None:
        """Kill a worker whose answers cannot be read any more."""
        slot, stream = worker.slot, worker.link.stream
        self._log.write_warning(f"worker {slot.number} (pid {slot.pid}) is killed: it sent nonsense: {why}")
        self._rests_due.pop(worker, None)
        if slot.pid in self._by_pid:
            self.kill(slot)
        stream.ended = True
        self._loop.remove(stream.pipe)

    def read_stack(self, source: StackSource) -> list[StackDumped]:
        """Read the stack that a worker tells."""
        return self._stacks.read(source)

    # Coming and going -------------------------------------------------------------------------------------------

    def on_forked(self, event: WorkerForked) -> None:
        """Note the pid of a worker; raise LookupError or ValueError for a slot or a pid that cannot be."""
        slot, pid = self._slot_of(event), event.pid
        if slot.pid or not isinstance(pid, int) or pid <= 1:
            raise ValueError(f"worker {slot.number} cannot be process {pid!r}")
        worker = self._by_pid[pid] = self._workers[slot.number]
        slot.pid = pid
        self._pin(worker)  # the pool may have been resized since it was asked for
        self._publisher.publish(slot, self._loop.now)
        if slot.stop is not Stop.NONE:
            self.terminate(slot)

    def on_fork_refused(self, event: ForkRefused) -> list[WorkerEvent]:
        """Give up a worker that could not be forked; raise LookupError or ValueError for a slot that cannot be."""
        slot = self._slot_of(event)
        if slot.pid:  # the process between was killed after it had told us the pid
            return []
        return self._give_up(slot, event.why)

    def _slot_of(self, event: WorkerForked | ForkRefused) -> Slot:
        slot = self._workers[event.number].slot
        if slot.generation is not event.generation:
            raise ValueError(f"worker {event.number} is not its")
        return slot

    def on_template_exit(self, generation: Generation) -> list[WorkerEvent]:
        """Give up the workers that a template that has ended was to fork."""
        events: list[WorkerEvent] = []
        for worker in list(self._workers.values()):
            if worker.slot.generation is generation and not worker.slot.pid:
                events += self._give_up(worker.slot, "the template ended before it had forked a worker")
        return events

    def _give_up(self, slot: Slot, problem: str) -> list[WorkerEvent]:
        events: list[WorkerEvent] = [*self._stacks.forget(slot), SpawnFailed(slot, problem)]
        self._close(slot)
        return events

    def before_reaping(self, pid: int) -> None:
        """Kill the process group of a worker that has ended, while its pid is still taken."""
        if pid in self._by_pid:
            process.kill_group(pid, signal.SIGKILL)

    def on_exit(self, exited: process.Exit, on_finished: OnFinished) -> list[WorkerEvent] | None:
        """Settle a process that has ended, None if it was no worker.

        First come the answers that it had sent, then the jobs that it had not read, then the one that it was in.
        """
        worker = self._by_pid.pop(exited.pid, None)
        if worker is None:
            return None
        slot, link = worker.slot, worker.link
        events: list[WorkerEvent] = []
        while not link.stream.ended:
            events += self.read(worker, on_finished)
            if link.stream.drained:
                break
        assert slot.generation is not None
        self.usage.note_exit(slot, exited.pid, exited.peak_bytes)
        self._templates.forget_worker(slot.generation, exited.pid)
        slot.pid = 0  # it has been reaped
        events += self._stacks.forget(slot)
        self.outputs.finish(worker.outputs)
        events.append(WorkerExited(slot, (exited.signal, exited.code), link.reclaim()))
        self._close(slot)
        return events

    def _close(self, slot: Slot) -> None:
        worker = self._workers.pop(slot.number)
        self._rests_due.pop(worker, None)
        self.usage.forget(slot)
        for fd in (*(output.fd for output in worker.outputs), worker.link.stack, worker.link.stream.pipe):
            self._loop.remove(fd)
        worker.link.close()

    # Time -------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Return when something is to be looked at again."""
        deadline = min(self._stacks.next_deadline(), self.outputs.next_deadline())
        return min(deadline, *self._rests_due.values()) if self._rests_due else deadline

    def advance(self, now: float, on_finished: OnFinished) -> list[WorkerEvent]:
        """Do what is due: end dumps, read on after pauses, kill workers whose frames stay incomplete."""
        events: list[WorkerEvent] = [*self._stacks.advance(now)]
        self.outputs.advance(now)
        for worker in [worker for worker, due_at in self._rests_due.items() if due_at <= now]:
            events += self.read(worker, on_finished)  # it may have come while this process was stopped
            if self._rests_due.get(worker, NEVER) <= now:
                self._kill_for_protocol_error(worker, "a frame whose rest does not come")
        return events


def _parse_event(slot: Slot, kind: int, raw: bytes, fd: int | None) -> list[WorkerEvent]:
    """Return the event that a worker tells, other than an answer."""
    if fd is not None:
        os.close(fd)
        raise WireError(f"a frame of kind {kind} with a descriptor")
    if kind == Frame.READY:
        baseline = wire.U64.unpack_from(raw, BODY)[0] if len(raw) == BODY + wire.U64.size else 0
        return [WorkerReady(slot, baseline)]
    if kind == Frame.LOADED and slot.generation is not None:
        return [FilesLoaded(slot.generation, check_texts(wire.parse_json(raw[BODY:]).get("files")))]
    if kind == Frame.INIT_FAILED:
        # Bounded: every client gets this text, and a frame that is too large would end its connection.
        return [InitFailed(slot, wire.limit_text(raw[BODY:].decode(errors="replace"), _MAX_PROBLEM_BYTES))]
    if kind == Frame.SPENT:
        return [WorkerSpent(slot, wire.limit_text(raw[BODY:].decode(errors="replace"), _MAX_PROBLEM_BYTES))]
    return []


def _parse_answer(raw: bytes, fd: int | None) -> Finished:
    try:
        answer = wire.parse_finished(raw)
        if answer.outcome == Outcome.VERDICT:
            raise WireError("a verdict, which is the supervisor's alone")
    except WireError:
        if fd is not None:
            os.close(fd)
        raise
    return answer
