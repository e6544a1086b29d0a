"""Which code runs: the generations of a pool, and how one takes over from another.

A client brings its generation's key and specification. A reload starts a second template from the same specification;
when that has preloaded, the new generation takes over clients and waiting jobs, and the old one ends with its last job.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from procjobs.dispatch.model import Generation
from procjobs.shared.wire import ANY_CODE
from procjobs.supervisor.workers.events import TemplateFailed

if TYPE_CHECKING:
    from procjobs.dispatch.dispatcher import Dispatcher
    from procjobs.supervisor.log import Log
    from procjobs.supervisor.workers.events import TemplateExited
    from procjobs.supervisor.workers.templates import Templates

OnReloaded = Callable[[str], None]
"""Gets the outcome of a reload: empty text where it has succeeded, else the reason why the code before stays."""


class _Reload:
    """A generation that is loaded to replace `old`. `waiters` get the outcome, `waiters_of_next` that of the next reload."""

    __slots__ = ("old", "waiters", "waiters_of_next")

    def __init__(self, old: Generation, waiter: OnReloaded) -> None:
        self.old = old
        self.waiters = [waiter]
        self.waiters_of_next: list[OnReloaded] = []


class Generations:
    """Begins generations, replaces them, and ends those that nobody uses."""

    def __init__(self, dispatcher: Dispatcher, templates: Templates, log: Log) -> None:
        self._dispatcher = dispatcher
        self._templates = templates
        self._log = log
        self._reloads: dict[Generation, _Reload] = {}
        self._count = 0

    def join(self, key: str, executable: str, spec_fd: int) -> Generation:
        """Return the generation of a client, begun if it is new; the descriptor is taken over.

        ANY_CODE joins the newest one.
        """
        current = self._dispatcher.current_generations()
        generation = next((g for g in current if key in {g.key, ANY_CODE}), None)
        if generation is None:
            generation = self._begin(key)
            self._templates.add(generation, executable, spec_fd)
            self._dispatcher.generations.append(generation)
        else:
            os.close(spec_fd)
        generation.clients += 1
        return generation

    def _begin(self, key: str) -> Generation:
        self._count += 1
        return Generation(self._count, key)

    # Replacing --------------------------------------------------------------------------------------------------

    def reload(self, on_reloaded: OnReloaded) -> None:
        """Begin to load the code of every generation in use anew.

        Where a reload has begun already, another one follows it: the first may have read the files too early.
        """
        current = self._dispatcher.current_generations()
        left = len(current)
        problems: list[str] = []

        def on_one(problem: str) -> None:
            nonlocal left
            left -= 1
            problems.extend([problem] if problem else [])
            if not left:
                on_reloaded("\n".join(problems))

        for old in reversed(current):
            self._reload_one(old, on_one)
        if not current:
            on_reloaded("")

    def _reload_one(self, old: Generation, waiter: OnReloaded) -> None:
        running = next((reload for reload in self._reloads.values() if reload.old is old), None)
        if running is not None:
            running.waiters_of_next.append(waiter)
            return
        generation = self._begin(old.key)
        self._templates.add_successor(generation, old)
        self._reloads[generation] = _Reload(old, waiter)

    def on_ready(self, generation: Generation, now: float) -> None:
        """Let a generation whose template is ready take over, if it was loaded to replace another one."""
        generation.ready = True
        generation.problem = ""
        reload = self._reloads.pop(generation, None)
        if reload is None:
            return
        old = reload.old
        if old not in self._dispatcher.generations:  # nobody uses it any more
            self._templates.discard(generation)
            self._end_reload(reload, None, "")
            return
        self._log.write(f"generation {generation.number} has been loaded and takes over from generation {old.number}")
        generation.clients, old.clients = old.clients, 0
        self._dispatcher.generations.append(generation)
        self._dispatcher.supersede(old, generation, now)
        self._end_reload(reload, generation, "")

    def on_failed(self, event: TemplateFailed) -> None:
        """Note that a template could not be started or its preload failed; of a reload, the old code stays."""
        generation, problem = event
        reload = self._reloads.pop(generation, None)
        if reload is None:
            generation.problem = problem
            return
        old = reload.old
        self._log.write(f"generation {old.number} stays, the code could not be loaded anew: {problem}")
        self._templates.discard(generation)
        self._end_reload(reload, old if old in self._dispatcher.generations else None, problem)

    def _end_reload(self, reload: _Reload, current: Generation | None, problem: str) -> None:
        """Tell the outcome to the clients that wait for it; begin the next reload for those who came during this one."""
        for waiter in reload.waiters:
            waiter(problem)
        for waiter in reload.waiters_of_next:
            if current is None:
                waiter("")
            else:
                self._reload_one(current, waiter)

    # Ending -----------------------------------------------------------------------------------------------------

    def on_template_exit(self, event: TemplateExited, now: float) -> None:
        """Note that a template has ended; it is started again when the budget of its generation allows."""
        generation = event.generation
        generation.ready = False
        if event.starts_anew:
            return
        number, code = event.how
        why = generation.problem or f"its template was lost: signal {number}, exit code {code}"
        if generation in self._reloads:
            self.on_failed(TemplateFailed(generation, why))
        else:
            self._dispatcher.add_start_failure(generation, why, now)

    def retire_unused(self, now: float) -> None:
        """End the generations that have neither clients nor jobs.

        The newest one stays for the next client, unless it does not work, and others are in use: it was rolled back.
        """
        generations = self._dispatcher.generations
        if len(generations) == 1:
            return
        for generation in list(generations):
            if generation.clients or generation.unfinished:
                continue
            if generation is generations[-1] and (generation.ready or not any(g.clients for g in generations)):
                continue
            self._dispatcher.retire_generation(generation, now)
            if not generation.slots:
                generations.remove(generation)
                self._templates.discard(generation)
