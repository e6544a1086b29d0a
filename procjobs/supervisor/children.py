"""The processes below the supervisor: reads workers and templates, reaps all children, and acts on their events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from procjobs.supervisor.workers.events import (
    CheckpointSaved,
    FilesLoaded,
    ForkRefused,
    HooksForked,
    HooksRefused,
    InitFailed,
    ModuleSkipped,
    SpawnFailed,
    StackDumped,
    TemplateEvent,
    TemplateExited,
    TemplateFailed,
    TemplateReady,
    WorkerEvent,
    WorkerExited,
    WorkerForked,
    WorkerReady,
    WorkerSpent,
)

if TYPE_CHECKING:
    from procjobs.dispatch.dispatcher import Dispatcher
    from procjobs.dispatch.model import Generation
    from procjobs.host import process
    from procjobs.host.loop import Loop
    from procjobs.supervisor.durable.durability import Durability
    from procjobs.supervisor.generations import Generations
    from procjobs.supervisor.workers.hook_runner import HookRunner, HookSource
    from procjobs.supervisor.workers.processes import WorkerProcess, WorkerProcesses
    from procjobs.supervisor.workers.reaper import Reaper
    from procjobs.supervisor.workers.stacks import StackSource
    from procjobs.supervisor.workers.templates import Templates


class Children:
    """Passes the events of processes to the core and to the generations."""

    def __init__(
        self, loop: Loop, workers: WorkerProcesses, templates: Templates, hooks: HookRunner, reaper: Reaper,
        generations: Generations, dispatcher: Dispatcher, durability: Durability,
    ) -> None:  # fmt: skip
        self.workers = workers
        self._loop = loop
        self._templates = templates
        self._hooks = hooks
        self._reaper = reaper
        self._generations = generations
        self._dispatcher = dispatcher
        self._durability = durability
        self._actions: dict[type, Callable[[Any], None]] = {
            WorkerReady: self._on_worker_ready,
            InitFailed: self._on_init_failed,
            FilesLoaded: generations.on_files_loaded,
            CheckpointSaved: lambda event: durability.checkpointed(event.job),
            WorkerSpent: self._on_worker_spent,
            WorkerExited: self._on_worker_exited,
            SpawnFailed: self._on_spawn_failed,
            StackDumped: self._on_stack_dumped,
            TemplateReady: self._on_template_ready,
            TemplateFailed: generations.on_failed,
            ModuleSkipped: generations.on_skipped,
            TemplateExited: self._on_template_exited,
            WorkerForked: self._on_worker_forked,
            ForkRefused: self._on_fork_refused,
            HooksForked: self._on_hooks_forked,
            HooksRefused: hooks.on_refused,
        }

    def _act_on(self, events: Iterable[WorkerEvent | TemplateEvent]) -> None:
        for event in events:
            self._actions[type(event)](event)

    # Reading ----------------------------------------------------------------------------------------------------

    def read_worker(self, worker: WorkerProcess, _events: int) -> None:
        """Read the answers of a worker."""
        events = self.workers.read(worker, self._dispatcher.on_finished)
        if events:
            self._act_on(events)

    def read_stack(self, source: StackSource, _events: int) -> None:
        """Read the stack that a worker tells."""
        self._act_on(self.workers.read_stack(source))

    def read_templates(self, _source: object = None, _events: int = 0) -> None:
        """Read the messages of all templates."""
        self._act_on(self._templates.read_all())

    def read_hooks(self, source: HookSource, _events: int) -> None:
        """Read how a call of a hook ended."""
        self._hooks.read(source)

    # Turns of the loop ------------------------------------------------------------------------------------------

    def next_deadline(self, now: float) -> float:
        """Return when something is to be done."""
        return min(self.workers.next_deadline(), self._templates.next_deadline(now), self._hooks.next_deadline())

    def extend_deadlines(self, seconds: float, now: float) -> None:
        """Give templates more time: the supervisor was away for so long."""
        self._templates.extend_deadlines(seconds, now)
        self._hooks.extend_deadlines(seconds)

    def reap(self) -> None:
        """Settle every child that has ended: first the answers that it had sent, then itself."""
        for exited in self._reaper.reap(self.read_templates):
            self._settle(exited)

    def _settle(self, exited: process.Exit) -> None:
        events: Iterable[WorkerEvent | TemplateEvent] | None
        events = self.workers.on_exit(exited, self._dispatcher.on_finished)
        if events is None and self._hooks.on_exit(exited):
            events = []
        elif events is None and not self._durability.on_exit(exited):
            events = self._templates.on_exit(exited)
        if events:
            self._reaper.expect_orphans()
            self._act_on(events)

    def advance(self, now: float) -> None:
        """Do what is due about workers, and about hooks."""
        events = self.workers.advance(now, self._dispatcher.on_finished)
        if events:
            self._act_on(events)
        if self._hooks.next_deadline() <= now:
            self._hooks.advance(now, self._dispatcher.newest_generation())

    def start_templates(self, now: float) -> None:
        """Start the templates that are missing."""
        events = self._templates.start_missing(now, self._dispatcher.worker_slots.max)
        if events:
            self._act_on(events)

    def kill_template(self, generation: Generation, error: Exception) -> None:
        """Kill a template that has sent nonsense."""
        self._templates.kill_for_protocol_error(generation, error)

    def kill_orphans(self) -> None:
        """Kill everything that dead workers have left running."""
        self._reaper.kill_orphans(self.read_templates)

    def close(self, seconds: float) -> None:
        """End the templates, and the rest of the workers' descendants."""
        self._hooks.close()
        self._templates.close()
        self._reaper.close(seconds)

    # Events -----------------------------------------------------------------------------------------------------

    def _on_worker_ready(self, event: WorkerReady) -> None:
        self._dispatcher.on_ready(event.slot, event.baseline_bytes, self._loop.now)

    def _on_init_failed(self, event: InitFailed) -> None:
        self._dispatcher.on_init_failed(event.slot, event.problem)

    def _on_worker_exited(self, event: WorkerExited) -> None:
        self._dispatcher.on_exit(event.slot, event.how, event.unread, self._loop.now)

    def _on_spawn_failed(self, event: SpawnFailed) -> None:
        self._dispatcher.on_spawn_failed(event.slot, event.problem, self._loop.now)

    def _on_worker_spent(self, event: WorkerSpent) -> None:
        self._dispatcher.on_spent(event.slot, event.why, self._loop.now)

    def _on_stack_dumped(self, event: StackDumped) -> None:
        self._dispatcher.on_stack_dumped(event.slot, event.job, event.stack, self._loop.now)

    def _on_template_ready(self, event: TemplateReady) -> None:
        self._generations.on_ready(event, self._loop.now)

    def _on_template_exited(self, event: TemplateExited) -> None:
        self._act_on(self.workers.on_template_exit(event.generation))
        self._generations.on_template_exit(event, self._loop.now)

    def _on_worker_forked(self, event: WorkerForked) -> None:
        try:
            self.workers.on_forked(event)
        except (LookupError, TypeError, ValueError) as error:
            self._templates.kill_for_protocol_error(event.generation, error)

    def _on_hooks_forked(self, event: HooksForked) -> None:
        try:
            self._hooks.on_forked(event)
        except ValueError as error:
            self._templates.kill_for_protocol_error(event.generation, error)

    def _on_fork_refused(self, event: ForkRefused) -> None:
        try:
            events = self.workers.on_fork_refused(event)
        except (LookupError, TypeError, ValueError) as error:
            self._templates.kill_for_protocol_error(event.generation, error)
        else:
            self._act_on(events)
