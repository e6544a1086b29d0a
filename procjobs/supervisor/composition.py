"""How a pool is put together: each part gets those that it calls, all of them from below. Nothing is set afterwards.

    connections -> requests -> admission, calls -> lifecycle, generations -> dispatcher -> its ports:
    workers (processes), durability (answers), host load; and below all of them the registry with the shared table
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, NamedTuple

from procjobs.clock import boottime
from procjobs.dispatch.dispatcher import Dispatcher
from procjobs.host import descriptors
from procjobs.shared.store_address import store_name
from procjobs.shared.table import arguments
from procjobs.shared.table.counts import CountsWriter
from procjobs.shared.table.state_writer import TableWriter, count_rows
from procjobs.shared.table.trend import TrendWriter
from procjobs.supervisor.children import Children
from procjobs.supervisor.clients.admission import Admission
from procjobs.supervisor.clients.calls import Calls
from procjobs.supervisor.clients.connections import Connections
from procjobs.supervisor.clients.deferred import DeferredCalls
from procjobs.supervisor.clients.hand_over import HandOver
from procjobs.supervisor.clients.requests import Identity, RequestHandler
from procjobs.supervisor.clients.retries import Retries
from procjobs.supervisor.clients.schedule_requests import ScheduleRequests
from procjobs.supervisor.clients.unique_keys import UniqueKeys
from procjobs.supervisor.durable.durability import Durability, NoStore
from procjobs.supervisor.failure_log import FailureLog
from procjobs.supervisor.generations import Generations
from procjobs.supervisor.kept_calls import MAX_BYTES, KeptCalls
from procjobs.supervisor.kind_counters import KindCounters
from procjobs.supervisor.lifecycle import Lifecycle
from procjobs.supervisor.pending_hooks import PendingHooks
from procjobs.supervisor.publisher import Publisher, SlotPublisher
from procjobs.supervisor.registry import Kinds, Registry
from procjobs.supervisor.results import ResultStore
from procjobs.supervisor.schedules.kept_calls import JobMaker
from procjobs.supervisor.schedules.service import Schedules
from procjobs.supervisor.trend import Trend
from procjobs.supervisor.workers.console import Console
from procjobs.supervisor.workers.hook_runner import HookRunner
from procjobs.supervisor.workers.host_load import HostLoad
from procjobs.supervisor.workers.output import Outputs
from procjobs.supervisor.workers.processes import WorkerProcesses
from procjobs.supervisor.workers.reaper import Reaper
from procjobs.supervisor.workers.templates import Templates

if TYPE_CHECKING:
    from procjobs.host.loop import Loop
    from procjobs.host.rundir import RunDir
    from procjobs.shared.config import PoolSettings
    from procjobs.store.started_attempts import StartedAttempts
    from procjobs.supervisor.log import Log


class Ground(NamedTuple):
    """The ground that a pool stands on. A private pool belongs to the process `owner_pid`; others have None.

    `console` shows the output of jobs, or for a pool in the foreground its log.
    """

    loop: Loop
    directory: RunDir
    settings: PoolSettings
    log: Log
    console: Console | None
    owner_pid: int | None
    in_foreground: bool

    @property
    def is_private(self) -> bool:
        """Whether the pool belongs to one process."""
        return self.owner_pid is not None

    @property
    def name_in_store(self) -> str:
        """The name of the pool in its store."""
        return store_name(str(self.settings.store), None if self.is_private else self.directory.name)


class Parts(NamedTuple):
    """The parts of a pool that the supervisor turns; `mark` is in the environment of all its workers."""

    mark: str
    registry: Registry
    durability: Durability
    dispatcher: Dispatcher
    children: Children
    generations: Generations
    lifecycle: Lifecycle
    admission: Admission
    connections: Connections
    publisher: Publisher
    hand_over: HandOver
    schedules: Schedules


def compose(ground: Ground, listener: socket.socket, started: StartedAttempts) -> Parts:
    """Put a pool together. `started` are the attempts of a killed supervisor, for the store to count."""
    loop, directory, settings, log, console, *_ = ground
    fds = descriptors.raise_descriptor_limit()
    table = TableWriter(directory.table, rows=count_rows(settings.max_queued), started_at=boottime())
    if settings.record_arguments:
        arguments.create(directory.path)
    counters = KindCounters(CountsWriter(directory.counts, list(settings.queues)))
    kinds = Kinds(directory.name, settings, counters, are_recorded=settings.store is not None)
    results = ResultStore(directory.path, settings, max_fds=max(fds.now // 8, 16))
    kept_bytes = MAX_BYTES if settings.store is None else 0
    calls_kept = KeptCalls(directory.path, max_bytes=kept_bytes, max_fds=max(fds.now // 16, 16))
    pending_hooks = PendingHooks(settings.on_failure, log, are_stored=settings.store is not None)
    registry = Registry(table, results, kinds, FailureLog(log), calls_kept, pending_hooks)
    mark = os.urandom(16).hex()
    durability = _make_durability(ground, registry, started, mark)

    slots = SlotPublisher(table)
    templates = Templates(loop, directory, table, settings, mark, log, max_fds=fds.before)
    outputs = Outputs(loop, log, None if ground.in_foreground else console, registry)
    workers = WorkerProcesses(loop, settings, log, registry, templates, outputs, slots)
    host_load = HostLoad(None if ground.is_private else directory.name)
    dispatcher = Dispatcher(workers, durability, host_load, settings)
    generations = Generations(dispatcher, templates, log)
    hooks = HookRunner(loop, templates, pending_hooks, settings.hook_timeout)
    reaper = Reaper(workers, templates, hooks, mark, log)
    children = Children(loop, workers, templates, hooks, reaper, generations, dispatcher, durability)
    lifecycle = Lifecycle(settings, directory, table, log, dispatcher, workers, durability, pending_hooks,
                          is_private=ground.is_private, now=loop.now)  # fmt: skip

    unique_keys = UniqueKeys(registry)
    admission = Admission(loop, directory.name, settings, registry, dispatcher, durability, unique_keys, lifecycle,
                          max_fds=fds.now)  # fmt: skip
    schedules = Schedules(directory.name, loop, registry, durability, JobMaker(registry, dispatcher, admission), log)
    schedule_requests = ScheduleRequests(schedules)
    deferred = DeferredCalls()
    calls = Calls(loop, registry, dispatcher, workers, generations, durability, admission, lifecycle, deferred,
                  Retries(directory.name, registry, dispatcher, durability, admission, unique_keys),
                  schedule_requests)  # fmt: skip
    hand_over = HandOver(loop, directory, registry, dispatcher, generations, templates, unique_keys, durability,
                         lifecycle, schedules, log)  # fmt: skip
    identity = Identity(directory.name, settings.to_json(), ground.name_in_store, ground.in_foreground, mark)
    requests = RequestHandler(identity, registry, generations, durability, admission, calls, schedule_requests, hand_over)
    connections = Connections(loop, listener, requests, deferred, log)
    publisher = Publisher(table, dispatcher, slots, counters, Trend(TrendWriter(directory.path), loop.now))
    return Parts(mark, registry, durability, dispatcher, children, generations, lifecycle, admission, connections, publisher,
                 hand_over, schedules)  # fmt: skip


def _make_durability(ground: Ground, registry: Registry, started: StartedAttempts, mark: str) -> Durability:
    if ground.settings.store is None:
        return NoStore(registry, ground.loop, ground.log)
    # Here, because most pools have no store, and should be ready soon.
    from procjobs.supervisor.durable.durable_jobs import DurableJobs
    from procjobs.supervisor.durable.held_claim import Claimant

    return DurableJobs(
        registry, ground.loop, ground.log, ground.settings, pool=ground.directory.name,
        claimant=Claimant.of_this_process(ground.name_in_store, mark, ground.directory), started_attempts=started,
    )  # fmt: skip
