"""The dispatcher's engine on this host: worker processes, their sockets and pipes, their ends.

1. Every worker is a child of this process; its exit status comes from the kernel, after everything that it had sent.
2. A pid is used only while its process has not been reaped.
3. What a worker that has ended leaves running is ended, whatever session it is in.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from procjobs.clock import wall
from procjobs.dispatch.completion import backoff_pause
from procjobs.dispatch.model import Job, Slot, SlotState, Stop
from procjobs.dispatch.ports import Account
from procjobs.dispatch.watchdog import Sample
from procjobs.host import cpus, observe, process
from procjobs.host.loop import READ, Loop
from procjobs.shared import wire
from procjobs.shared.states import JobState
from procjobs.shared.table.state_writer import TableWriter
from procjobs.shared.wire import BODY, Frame, Outcome, WireError
from procjobs.supervisor.workers.host_load import Surroundings
from procjobs.supervisor.workers.output import Console, Outputs, OutputSource
from procjobs.supervisor.workers.stacks import Stacks, StackSource, without_own_frames
from procjobs.supervisor.workers.worker_link import WorkerLink

if TYPE_CHECKING:
    from procjobs.dispatch.dispatcher import Dispatcher
    from procjobs.dispatch.model import Generation
    from procjobs.dispatch.scaling import CpuFacts, MemoryFacts
    from procjobs.shared.states import Reason
    from procjobs.supervisor.durable.durable_jobs import Recording
    from procjobs.supervisor.log import Log
    from procjobs.supervisor.publisher import Publisher
    from procjobs.supervisor.workers.templates import Templates

_TICK: Final = 0.02
"""The kernel knows the starts of processes in ticks of 10 ms."""

_FINISHED: Final = int(Frame.FINISHED)
_PART_SECONDS: Final = 5.0
"""How long the rest of a worker's frame may take: what a job has written there itself could swallow every later answer."""

Deliver = Callable[[Job, "Reason", bytes, "int | None", str], None]


class AnswerSource:
    """What the loop hands out when a worker has answered."""

    __slots__ = ("link", "slot")

    def __init__(self, slot: Slot, link: WorkerLink) -> None:
        self.slot = slot
        self.link = link


class Crew:
    """The workers of a pool as processes. `dispatcher`, `templates` and `publisher` are set before the first turn."""

    dispatcher: Dispatcher
    templates: Templates
    publisher: Publisher
    recording: Recording | None = None

    def __init__(self, loop: Loop, table: TableWriter, log: Log, console: Console | None, deliver: Deliver) -> None:
        """`deliver` takes the answers of jobs."""
        self._loop = loop
        self._table = table
        self._log = log
        self._deliver = deliver
        self.outputs = Outputs(loop, log, console, self._current_job)
        self.stacks = Stacks(loop, self._on_examined)
        self._links: dict[int, WorkerLink] = {}
        self._printers: dict[int, list[OutputSource]] = {}
        self._slots_by_pid: dict[int, Slot] = {}
        self._tree = observe.ProcessTree()
        self.surroundings = Surroundings()
        self._given: dict[int, tuple[Job, int, float]] = {}
        self._parts: dict[int, float] = {}
        self._cpus: dict[int, list[int]] = {}
        self.mark = os.urandom(16).hex()
        self.peaks = observe.WorkerPeaks()
        self._own_peaks: dict[int, int] = {}
        self._seek_orphans = False

    # What the dispatcher needs done -----------------------------------------------------------------------------

    def spawn(self, slot: Slot) -> bool:
        """Begin to start a worker."""
        assert slot.generation is not None
        try:
            link = WorkerLink()
        except OSError as error:
            self.dispatcher.staff.add_start_failure(slot.generation, f"no pipes for a worker: {error}", self._loop.now)
            return False
        self._cpus[slot.number] = self.templates.cpus_of(slot.number)
        if not self.templates.spawn(slot.generation, slot.number, self._cpus[slot.number], link.fds_for_worker()):
            link.close()
            return False
        link.close_worker_side()
        self._links[slot.number] = link
        self._printers[slot.number] = [OutputSource(slot, link.stdout, 1), OutputSource(slot, link.stderr, 2)]
        for printer in self._printers[slot.number]:
            self._loop.add(printer.fd, printer)
        self._loop.add(link.stack, StackSource(slot, link))
        self._loop.add(link.stream.pipe, AnswerSource(slot, link))
        return True

    def pin_all(self) -> None:
        """Give each worker the CPUs that are its own now; processes that its job has started keep theirs."""
        for slot in self._slots_by_pid.values():
            self._pin(slot)

    def _pin(self, slot: Slot) -> None:
        wanted = self.templates.cpus_of(slot.number)
        if wanted != self._cpus.get(slot.number):
            self._cpus[slot.number] = wanted
            cpus.pin(wanted, slot.pid)

    def send(self, slot: Slot, job: Job) -> bool:
        """Give a worker a job."""
        if self.recording is None:
            return self._links[slot.number].send(job)
        is_sent = self._links[slot.number].send(job)
        if is_sent:
            self.recording.started(job, slot.number, slot.pid)
        return is_sent

    def take_back(self, slot: Slot) -> list[bytes]:
        """Take from a worker what it has not read."""
        return self._links[slot.number].take_back()

    def has_begun(self, job: Job) -> bool:
        """Return whether a worker has begun this attempt."""
        return self._table.has_begun(job.row, job.id, job.attempt)

    def examine(self, slot: Slot) -> None:
        """Ask a worker where it is."""
        self.stacks.ask(slot)

    def _on_examined(self, slot: Slot, job: Job | None, stack: str) -> None:
        self.dispatcher.on_examined(slot, job, stack, self._loop.now)

    def interrupt(self, slot: Slot) -> None:
        """Have JobTimeout raised in a worker's job."""
        if slot.pid:
            process.kill_process(slot.pid, process.SOFT_SIGNAL)

    def measure(self, slot: Slot) -> Sample:
        """Return what a worker and its descendants use; it is the subreaper of what its jobs start.

        What was there before the job is not its own: children kept for an earlier one, another pool that one has started.
        Forks share most of their memory, which each one's resident size counts again: it is looked at closely only where
        the sum of those is over the limit.
        """
        job = slot.current
        if job is None:
            return Sample(0, 0.0, 0, 0)
        members = self._tree.members(slot.pid, self._given_at(slot, job) - _TICK)
        usage = observe.usage_of(members)
        rss, most = usage.rss_bytes, job.kind.options.max_rss
        if most is not None and len(members) > 1 and rss - slot.baseline_bytes > most:
            private, shared = observe.private_and_shared(members)
            rss = min(rss, max(shared, slot.baseline_bytes) + private)
        return Sample(self._table.progress_count(job.row), usage.cpu_seconds, usage.processes, rss)

    def _given_at(self, slot: Slot, job: Job) -> float:
        """Return when a worker was given the job that it is in, on the clock of the start times of processes.

        It is the monotonic one, but goes on while the host is suspended; so it is read at the first sample.
        """
        known_job, attempt, given_at = self._given.get(slot.number, (None, 0, 0.0))
        if known_job is not job or attempt != job.attempt:
            began = slot.limits.began_at if slot.limits is not None else self._loop.now
            given_at = observe.process_clock() - (self._loop.now - began)
            self._given[slot.number] = job, job.attempt, given_at
        return given_at

    def terminate(self, slot: Slot) -> None:
        """Send SIGTERM to a worker's process group, and let one that is stopped notice it.

        The job can see in its slot that this is not an accident.
        """
        self.publisher.publish_slot(slot, self._loop.now)
        if slot.pid:
            self._note_peak(slot)
            process.kill_group(slot.pid, signal.SIGTERM)
            process.kill_group(slot.pid, signal.SIGCONT)

    def kill(self, slot: Slot) -> None:
        """Kill a worker and its process group; one that has not been forked yet, with the template that was to do it."""
        if slot.pid:
            process.kill_group(slot.pid, signal.SIGKILL)
        elif slot.generation is not None:
            self.templates.kill(slot.generation)

    def retire(self, slot: Slot) -> None:
        """Let a worker end when it has no more to read."""
        self._note_peak(slot)
        self._links[slot.number].end_jobs()

    def begin_look(self) -> None:
        """Begin to watch the CPUs."""
        self.surroundings.begin_look()

    def look_at_cpus(self) -> CpuFacts:
        """Return how busy the CPUs have been."""
        return self.surroundings.look_at_cpus()

    def look_at_memory(self) -> MemoryFacts:
        """Return the memory of the host and of the workers."""
        return self.surroundings.look_at_memory(self.dispatcher.slots)

    def _note_peak(self, slot: Slot) -> None:
        """Take note of what a worker took; once it has ended, its own peak is not told from those of its children."""
        if slot.pid and slot.jobs_done:
            # Where there is a store, the worker has the kernel forget its peak before each job.
            self._own_peaks[slot.pid] = max(observe.peak_rss(slot.pid), self._own_peaks.get(slot.pid, 0))

    def account(self, job: Job) -> Account:
        """Return what is known of the attempt that has just ended."""
        started_at, progress = self._table.last_report(job.row, job.id) if job.row else (None, None)
        stderr = without_own_frames(job.transcript.stderr.text()) if job.transcript is not None else ""
        return Account(started_at, wall(), progress, stderr)

    def note_state(self, job: Job, reason: Reason, error: str) -> None:
        """Record the state of a job that waits again, and why."""
        if job.row:
            self._table.write_state(job.row, job.state, reason, job.attempt, 0.0, error)
        if self.recording is not None and job.state is JobState.RETRYING:
            self.recording.retried(job, wall() + backoff_pause(job.kind.options, job.attempt, 0.0))

    def log(self, line: str) -> None:
        """Write to the pool's log."""
        self._log.write(line)

    def answer(self, job: Job, reason: Reason, frame: bytes, fd: int | None, error: str) -> None:
        """Pass on a job's answer."""
        if job.transcript is not None:
            self.outputs.keep(job)
        self._deliver(job, reason, frame, fd, error)

    # What workers say -------------------------------------------------------------------------------------------

    def _current_job(self, slot: Slot) -> Job | None:
        """Return the job that a worker is in: of several, the last one that it has begun."""
        if len(slot.jobs) <= 1 or slot.stop is not Stop.NONE:
            return slot.jobs[0] if slot.jobs else None
        begun = (job for job in reversed(slot.jobs) if self.has_begun(job))
        return next(begun, slot.jobs[0])

    def read_answers(self, source: AnswerSource, _events: int) -> None:
        """Act on what a worker has sent."""
        slot, link = source.slot, source.link
        if link.closed:  # in this very turn; its descriptors may be others' by now
            return
        try:
            for kind, raw, fd in link.stream.read():
                if kind == _FINISHED:
                    self._read_answer(slot, link, raw, fd)
                else:
                    self._read_start(slot, kind, raw, fd)
            if not link.stream.has_part:
                self._parts.pop(slot.number, None)
            elif not link.stream.drained:
                self._await_rest(slot)
        except WireError as error:
            self._distrust(slot, str(error))
        if link.stream.ended:
            self._loop.remove(link.stream.pipe)

    def _read_start(self, slot: Slot, kind: int, raw: bytes, fd: int | None) -> None:
        if fd is not None:
            os.close(fd)
            raise WireError(f"a frame of kind {kind} with a descriptor")
        if kind == Frame.READY:
            baseline = wire.U64.unpack_from(raw, BODY)[0] if len(raw) == BODY + wire.U64.size else 0
            self.dispatcher.staff.on_ready(slot, baseline, self._loop.now)
        elif kind == Frame.INIT_FAILED and slot.state is SlotState.STARTING and slot.generation is not None:
            # Bounded, since every client is told, and a frame that is too large would end its connection.
            slot.generation.problem = wire.limit_text(raw[BODY:].decode(errors="replace"), 32_000)

    def _await_rest(self, slot: Slot) -> None:
        """Expect the rest of a frame soon; raise WireError if none can be under way."""
        if slot.state is SlotState.IDLE:
            raise WireError("something followed its last answer")
        self._parts[slot.number] = self._loop.now + _PART_SECONDS

    def _distrust(self, slot: Slot, why: str) -> None:
        """Kill a worker whose answers cannot be read any more."""
        self._log.write(f"worker {slot.number} (pid {slot.pid}) is killed: it sent nonsense: {why}")
        self._parts.pop(slot.number, None)
        if slot.pid in self._slots_by_pid:
            self.kill(slot)
        link = self._links[slot.number]
        link.stream.ended = True
        self._loop.remove(link.stream.pipe)

    def _read_answer(self, slot: Slot, link: WorkerLink, raw: bytes, fd: int | None) -> None:
        answer = _parse_answer(raw, fd)
        link.confirm(answer.job_id)
        if self.outputs.is_pausing:
            for printer in self._printers[slot.number]:
                self.outputs.read_paused(printer)
        if self.recording is not None:
            self.recording.last_answer = answer
        unwanted = self.dispatcher.on_finished(slot, answer, raw, fd, self._loop.now)
        if unwanted is not None:
            os.close(unwanted)

    def on_template_message(self, generation: Generation, message: dict[str, Any]) -> None:
        """Act on what a template says about a worker; LookupError or ValueError for what it cannot have to say."""
        number, pid = message["spawned" if "spawned" in message else "refused"], message.get("pid")
        slot = self.dispatcher.slots[number]
        if slot.generation is not generation:
            raise ValueError(f"worker {number} is not its")
        if "spawned" in message:
            if slot.pid or not isinstance(pid, int) or pid <= 1:
                raise ValueError(f"worker {number} cannot be process {pid!r}")
            slot.pid = pid
            self._slots_by_pid[slot.pid] = slot
            self._pin(slot)  # the pool may have been resized since it was asked for
            self.publisher.publish_slot(slot, self._loop.now)
            if slot.stop is not Stop.NONE:
                self.terminate(slot)
        elif not slot.pid:  # else the process between was killed after it had told us
            self.stacks.forget(slot)
            self._close(slot)
            self.dispatcher.staff.on_spawn_failed(slot, str(message["why"]), self._loop.now)

    # Ends of processes ------------------------------------------------------------------------------------------

    def reap(self, on_other: Callable[[process.Exit], None]) -> None:
        """Settle every child that has ended; those that are no workers are `on_other`'s."""
        for how in process.reap_children(self._before_reaping):
            slot = self._slots_by_pid.pop(how.pid, None)
            if slot is not None:
                self._on_exit(slot, how)
            else:
                on_other(how)

    def _before_reaping(self, pid: int) -> None:
        self.templates.read_all()
        if pid in self._slots_by_pid:
            process.kill_group(pid, signal.SIGKILL)

    def _on_exit(self, slot: Slot, how: process.Exit) -> None:
        """Settle a dead worker: first what it had answered, then what it had not read, then what it was in."""
        link = self._links[slot.number]
        source = AnswerSource(slot, link)
        while not link.stream.ended:
            self.read_answers(source, READ)
            if link.stream.drained:
                break
        assert slot.generation is not None
        own_peak_bytes = self._own_peaks.pop(how.pid, 0)
        if slot.baseline_bytes and (slot.jobs_done or slot.jobs):
            self.peaks.add(slot.baseline_bytes, how.peak_bytes, slot.used_bytes, own_peak_bytes)
        self.templates.forget_worker(slot.generation, how.pid)
        slot.pid = 0  # it has been reaped
        self.stacks.forget(slot)
        self.outputs.finish(self._printers[slot.number])
        self.dispatcher.on_exit(slot, (how.signal, how.code), link.take_back(), self._loop.now)
        self._close(slot)
        self._seek_orphans = True

    def _close(self, slot: Slot) -> None:
        link = self._links.pop(slot.number)
        for printer in self._printers.pop(slot.number):
            self._loop.remove(printer.fd)
        self._given.pop(slot.number, None)
        self._parts.pop(slot.number, None)
        self._loop.remove(link.stack)
        self._loop.remove(link.stream.pipe)
        link.close()

    def on_template_exit(self, generation: Generation) -> None:
        """Give up the workers that a template that has ended was to fork."""
        for slot in self.dispatcher.slots:
            if slot.generation is generation and slot.state is not SlotState.EMPTY and not slot.pid:
                self.stacks.forget(slot)
                self._close(slot)
                problem = "the template ended before it had forked a worker"
                self.dispatcher.staff.on_spawn_failed(slot, problem, self._loop.now)
        self._seek_orphans = True

    def end_orphans(self) -> None:
        """Kill what dead workers have left running. A worker that was just forked is known before it is our child."""
        if not self._seek_orphans:
            return
        self._seek_orphans = False
        children = self._strays()
        self.templates.read_all()
        for pid in children - self._slots_by_pid.keys() - self.templates.pids():
            self._log.write(f"process {pid}, left by a worker that has ended, is killed")
            process.kill_process(pid, signal.SIGKILL)
            self._seek_orphans = True  # what it has started comes to us next

    def _strays(self) -> set[int]:
        return observe.own_children(only_marked=self.mark if os.getpid() == 1 else None)

    # The loop ---------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Return when something is to be looked at again."""
        deadline = min(self.stacks.next_deadline(), self.outputs.next_deadline())
        return min(deadline, *self._parts.values()) if self._parts else deadline

    def advance(self, now: float) -> None:
        """Do what is due."""
        self.stacks.advance(now, self._links)
        self.outputs.advance(now)
        for number in [number for number, until in self._parts.items() if until <= now]:
            slot, link = self.dispatcher.slots[number], self._links[number]
            self.read_answers(AnswerSource(slot, link), READ)  # it may have come while this process was stopped
            if self._parts.get(number, now + 1) <= now:
                self._distrust(slot, "a frame whose rest does not come")

    def close(self, seconds: float) -> None:
        """End what is left of the workers' descendants; the workers themselves have ended."""
        while remains := self._strays():
            for pid in remains:
                process.kill_process(pid, signal.SIGKILL)
            process.wait_for_child(min(remains), seconds)


def _parse_answer(raw: bytes, fd: int | None) -> wire.Finished:
    try:
        answer = wire.parse_finished(raw)
        if answer.outcome == Outcome.VERDICT:
            raise WireError("a verdict, which is the supervisor's alone")
    except WireError:
        if fd is not None:
            os.close(fd)
        raise
    return answer
