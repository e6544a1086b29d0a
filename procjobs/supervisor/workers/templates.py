"""Which code runs: the generations of a pool, and a template process for each, from which its workers are forked.

A client brings its generation's key and specification. A reload starts a second template from the same specification;
when that has preloaded, the new generation takes over clients and waiting jobs, and the old one ends with its last job.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from procjobs.clock import NEVER
from procjobs.dispatch.model import Generation
from procjobs.dispatch.watchdog import FORGIVEN_SECONDS
from procjobs.host import cpus, hostinfo, observe, process
from procjobs.host.loop import Loop
from procjobs.host.rundir import RunDir
from procjobs.shared.wire import ANY_CODE, WireError
from procjobs.supervisor.clients.client_link import TemplateLink

if TYPE_CHECKING:
    from procjobs.dispatch.dispatcher import Dispatcher
    from procjobs.shared.config import PoolSettings
    from procjobs.shared.table.state_writer import TableWriter
    from procjobs.supervisor.log import Log
    from procjobs.supervisor.workers.processes import Crew

_START: Final = (
    "import sys, json; a = json.loads(sys.argv[1]); sys.path[:0] = a['path']; "
    "from procjobs.template.template import main; main(a)"
)

OnReloaded = Callable[[str], None]
"""Told when a reload has ended: empty text where it has succeeded, else why the code before stays."""


class _Origin:
    """How a generation's template is started; `takes_over` is the generation that a reload replaces."""

    def __init__(self, executable: str, spec_fd: int) -> None:
        self.executable = executable
        self.spec_fd = spec_fd
        self.skip: list[str] = []
        self.starts_anew = False
        self.ready_by = NEVER
        self.link: TemplateLink | None = None
        self.takes_over: Generation | None = None
        self.waiters: list[OnReloaded] = []
        self.waiters_of_next: list[OnReloaded] = []


class Templates:
    """Keeps one template running for each generation, and moves clients from one generation to the next."""

    dispatcher: Dispatcher
    crew: Crew

    def __init__(
        self, loop: Loop, directory: RunDir, table: TableWriter, settings: PoolSettings, mark: str, log: Log
    ) -> None:
        self._loop = loop
        self._directory = directory
        self._table = table
        self._settings = settings
        self._mark = mark
        self._log = log
        self._origins: dict[Generation, _Origin] = {}
        self._numbers = 0

    # Generations ------------------------------------------------------------------------------------------------

    def join(self, key: str, executable: str, spec_fd: int) -> Generation:
        """Return the generation of a client, begun if it is new; the descriptor is taken over.

        ANY_CODE joins the newest one.
        """
        generations = self.dispatcher.generations
        current = (g for g in reversed(generations) if g.successor is None)
        generation = next((g for g in current if key in {g.key, ANY_CODE}), None)
        if generation is None:
            generation = self._begin(key, _Origin(executable, spec_fd))
            generations.append(generation)
            self.start_missing(self._loop.now)
        else:
            os.close(spec_fd)
        generation.clients += 1
        return generation

    def _begin(self, key: str, origin: _Origin) -> Generation:
        self._numbers += 1
        generation = Generation(self._numbers, key)
        self._origins[generation] = origin
        return generation

    def reload(self, on_reloaded: OnReloaded) -> None:
        """Begin to load the code of every generation in use anew; after a reload that has begun, once more.

        That one may have read the files before they were changed for this one.
        """
        current = [g for g in self.dispatcher.generations if g.successor is None]
        waiting = [len(current)]
        problems: list[str] = []

        def on_one(problem: str) -> None:
            waiting[0] -= 1
            problems.extend([problem] if problem else [])
            if not waiting[0]:
                on_reloaded("\n".join(problems))

        for old in current:
            self._reload_one(old, on_one)
        self.start_missing(self._loop.now)
        if not current:
            on_reloaded("")

    def _reload_one(self, old: Generation, waiter: OnReloaded) -> None:
        begun = next((o for o in self._origins.values() if o.takes_over is old), None)
        if begun is not None:
            begun.waiters_of_next.append(waiter)
            return
        before = self._origins[old]
        origin = _Origin(before.executable, os.dup(before.spec_fd))
        origin.takes_over = old
        origin.waiters.append(waiter)
        self._begin(old.key, origin)

    def _on_ready(self, generation: Generation) -> None:
        generation.ready = True
        generation.problem = ""
        origin = self._origins[generation]
        origin.ready_by = NEVER
        old, origin.takes_over = origin.takes_over, None
        if old is None:
            return
        if old not in self.dispatcher.generations:  # nobody uses it any more
            self._discard(generation)
            self._end_reload(origin, None, "")
            return
        self._log.write(f"generation {generation.number} has been loaded and takes over from generation {old.number}")
        generation.clients, old.clients = old.clients, 0
        self.dispatcher.generations.append(generation)
        self.dispatcher.supersede(old, generation, self._loop.now)
        self._end_reload(origin, generation, "")

    def _on_failed(self, generation: Generation, problem: str) -> None:
        origin = self._origins[generation]
        old = origin.takes_over
        if old is None:
            generation.problem = problem
            return
        self._log.write(f"generation {old.number} stays, the code could not be loaded anew: {problem}")
        self._discard(generation)
        self._end_reload(origin, old if old in self.dispatcher.generations else None, problem)

    def _end_reload(self, origin: _Origin, current: Generation | None, problem: str) -> None:
        """Tell who waits for a reload; begin the next one for those who came during it."""
        for waiter in origin.waiters:
            waiter(problem)
        for waiter in origin.waiters_of_next:
            if current is None:
                waiter("")
            else:
                self._reload_one(current, waiter)
        origin.waiters, origin.waiters_of_next = [], []

    def retire_unused(self, now: float) -> None:
        """End the generations that have neither clients nor jobs.

        The newest one stays for the next client, unless it does not work, and others are in use: it was rolled back.
        """
        generations = self.dispatcher.generations
        if len(generations) == 1:
            return
        for generation in list(generations):
            if generation.clients or generation.unfinished:
                continue
            if generation is generations[-1] and (generation.ready or not any(g.clients for g in generations)):
                continue
            self.dispatcher.staff.retire_generation(generation, now)
            if not generation.slots:
                self.dispatcher.generations.remove(generation)
                self._discard(generation)

    def _discard(self, generation: Generation) -> None:
        origin = self._origins.pop(generation)
        self._drop_link(origin)
        os.close(origin.spec_fd)

    # Template processes -----------------------------------------------------------------------------------------

    def start_missing(self, now: float) -> None:
        """Start the templates that are not there and may be tried; kill those that do not come to an end of importing."""
        for generation, origin in list(self._origins.items()):
            if origin.link is None and _may_start(generation, now):
                try:
                    self._start(generation, origin)
                except (OSError, ValueError) as error:  # ValueError: a path with a zero or a lone surrogate in it
                    generation.budget.add_failure(now)
                    generation.budget.not_before = max(generation.budget.not_before, now + 0.1)
                    self._on_failed(generation, f"the template {origin.executable} could not be started: {error}")
            elif origin.ready_by <= now and origin.link is not None:
                origin.ready_by = NEVER
                text = f"the preload has not ended after {self._settings.start_timeout:g} s (start_timeout)"
                generation.problem = generation.problem or text
                process.kill_process(origin.link.pid, 9)

    def next_deadline(self, now: float) -> float:
        """Return when a template that could not be started may be tried again, or one has imported for too long."""
        deadline = NEVER
        for generation, origin in self._origins.items():
            if origin.link is not None:
                deadline = min(deadline, origin.ready_by)
            elif _may_start(generation, NEVER):
                deadline = min(deadline, max(generation.budget.not_before, now))
        return deadline

    def forgive(self, seconds: float, now: float) -> None:
        """Give templates that import more time: whether they have ended has not been looked at for so long."""
        for origin in self._origins.values():
            if origin.ready_by < NEVER:
                origin.ready_by = max(origin.ready_by + seconds, now + FORGIVEN_SECONDS)

    def _start(self, generation: Generation, origin: _Origin) -> None:
        arguments = {
            "path": [os.path.dirname(os.path.dirname(os.path.dirname(__file__)))],
            "supervisor_pid": os.getpid(),
            "directory": self._directory.path,
            "nice": self._settings.nice,
            "rows_offset": self._table.rows_offset,
            "skip": origin.skip,
        }
        environment = {**os.environ, **self._thread_variables(), observe.MARK: self._mark}
        environment.pop(observe.DETACHED, None)  # said of this supervisor, not of what it starts
        pid, ours = process.spawn_linked(
            [origin.executable, "-c", _START, json.dumps(arguments)],
            env=environment,
            kind=socket.SOCK_SEQPACKET,
            passed=[origin.spec_fd, self._table.fd],
        )
        origin.link = TemplateLink(generation, ours, pid)
        origin.ready_by = self._loop.now + self._settings.start_timeout
        self._loop.add(ours.fileno(), self.read_all)

    def _thread_variables(self) -> dict[str, str]:
        """Return what tells libraries how many threads to start: for the most workers that there may be at once.

        They read it once, when they are imported. So after a resize it holds from the next reload on.
        """
        count = hostinfo.usable_cpus(hostinfo.read_cpu_facts())
        most = self.dispatcher.staff.most
        return cpus.thread_variables(self._settings.threads, workers=most, cpus=count, environment=os.environ)

    def pids(self) -> set[int]:
        """Return the pids of the templates."""
        return {origin.link.pid for origin in self._origins.values() if origin.link is not None}

    def spawn(self, generation: Generation, slot: int, on_cpus: list[int], fds: list[int]) -> bool:
        """Ask the generation's template for a worker; return whether it could be asked."""
        link = self._origins[generation].link
        return link is not None and link.spawn(slot, on_cpus, fds)

    def cpus_of(self, slot: int) -> list[int]:
        """Return the CPUs that a worker is to run on, none if it may use all."""
        usable = cpus.usable_cpu_numbers()
        return cpus.cpus_of_slot(slot, self._settings.affinity, workers=self.dispatcher.staff.most, usable=usable)

    def kill(self, generation: Generation) -> None:
        """Kill a generation's template, which does not do what it was asked for."""
        link = self._origins[generation].link
        if link is not None:
            process.kill_process(link.pid, 9)

    def forget_worker(self, generation: Generation, pid: int) -> None:
        """Tell the template that a worker has gone."""
        origin = self._origins.get(generation)
        if origin is not None and origin.link is not None:
            origin.link.forget(pid)

    def read_all(self) -> None:
        """Act on what templates have said."""
        for generation, origin in list(self._origins.items()):
            try:
                for message in list(origin.link.read()) if origin.link is not None else ():
                    self._act_on(generation, origin, message)
            except (WireError, LookupError, TypeError, ValueError) as error:
                self._log.write(f"the template of generation {generation.number} is killed: it sent nonsense: {error!r}")
                self.kill(generation)

    def _act_on(self, generation: Generation, origin: _Origin, message: dict[str, Any]) -> None:
        if "threads" in message:
            self._skip(generation, origin, str(message["threads"]))
        elif "ready" in message:
            self._on_ready(generation)
        elif "failed" in message:
            self._on_failed(generation, str(message["failed"]))
        else:
            self.crew.on_template_message(generation, message)

    def _skip(self, generation: Generation, origin: _Origin, module: str) -> None:
        """Leave out a module that cannot be preloaded; the template ends by itself and is started again."""
        origin.skip.append(module)
        origin.starts_anew = True
        self._log.write(
            f"generation {generation.number}: {module} starts a thread when it is imported, and a fork copies locks but "
            "no threads: it is not preloaded, and workers import it themselves"
        )

    def on_exit(self, how: process.Exit) -> None:
        """Note the end of a process: if it was a template, it is started again when its budget allows."""
        found = ((g, o) for g, o in self._origins.items() if o.link is not None and o.link.pid == how.pid)
        generation, origin = next(found, (None, None))
        if generation is None or origin is None:
            return
        self._drop_link(origin)
        generation.ready = False
        self.crew.on_template_exit(generation)
        if origin.starts_anew:
            origin.starts_anew = False
            return
        why = generation.problem or f"its template was lost: signal {how.signal}, exit code {how.code}"
        if origin.takes_over is not None:
            self._on_failed(generation, why)
        else:
            self.dispatcher.staff.add_start_failure(generation, why, self._loop.now)

    def _drop_link(self, origin: _Origin) -> None:
        origin.ready_by = NEVER
        if origin.link is not None:
            self._loop.remove(origin.link.socket.fileno())
            origin.link.stop()
            origin.link = None

    def close(self) -> None:
        """End all templates."""
        for origin in self._origins.values():
            pid = origin.link.pid if origin.link is not None else None
            self._drop_link(origin)
            if pid is not None:
                process.wait_for_child(pid, 5.0)
            os.close(origin.spec_fd)


def _may_start(generation: Generation, now: float) -> bool:
    """Return whether a template may be tried: one that has failed, and that nobody needs, is left alone.

    Nor does a generation need one whose successor has taken over: what runs of it has its workers.
    """
    is_needed = generation.clients or generation.unfinished or not generation.problem
    return bool(is_needed) and generation.successor is None and generation.budget.not_before <= now
