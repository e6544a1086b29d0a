"""Which code runs: the generations of a pool, and how one takes over from another.

A client brings the key and the specification of its code, with the digests of the source files that it has seen. It joins a
generation of the same key whose files are the same as far as both know them, else it begins one. A reload starts a second
template from the same specification; when that has preloaded, the new generation takes over clients and waiting jobs, and
the old one ends with its last job.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from procjobs.dispatch.model import Generation
from procjobs.shared.code_spec import CodeSpec, read_spec
from procjobs.shared.source_digest import Source
from procjobs.shared.wire import ANY_CODE
from procjobs.supervisor.code_version import CodeVersion, name_files
from procjobs.supervisor.workers.events import ModuleSkipped, TemplateFailed

if TYPE_CHECKING:
    from procjobs.dispatch.dispatcher import Dispatcher
    from procjobs.supervisor.log import Log
    from procjobs.supervisor.workers.events import FilesLoaded, TemplateExited, TemplateReady
    from procjobs.supervisor.workers.templates import Templates

_MAX_OF_A_KEY: Final = 8
"""A pool has this number of versions of the same files at the most; each has a template, and workers of its own."""
_MAX_LEFT: Final = 3
"""A pool has this number of generations at the most whose clients have gone, and that only finish their jobs."""

_MAX_NAMED: Final = 5

OnReloaded = Callable[[str], None]
"""Gets the outcome of a reload: empty text where it has succeeded, else the reason why the code before stays."""


class Joined(NamedTuple):
    """The generation of a client, and in what it differs from what the client has; empty text where in nothing."""

    generation: Generation
    warning: str


class Renewal(NamedTuple):
    """The key and the environment of a client that wants its generation to be loaded anew."""

    key: str
    environment: Mapping[str, str]


class _Reload:
    """A generation that is loaded to replace `old`. `waiters` get the outcome, `waiters_of_next` that of the next reload."""

    __slots__ = ("old", "waiters", "waiters_of_next")

    def __init__(self, old: Generation, waiter: OnReloaded) -> None:
        self.old = old
        self.waiters = [waiter]
        self.waiters_of_next: list[tuple[OnReloaded, Renewal | None]] = []


class Generations:
    """Begins generations, replaces them, and ends those that nobody uses."""

    def __init__(self, dispatcher: Dispatcher, templates: Templates, log: Log) -> None:
        self._dispatcher = dispatcher
        self._templates = templates
        self._log = log
        self._versions: dict[Generation, CodeVersion] = {}
        self._reloads: dict[Generation, _Reload] = {}
        self._count = 0
        self.notices: list[tuple[Generation, str]] = []
        self.declared: list[tuple[Generation, list[bytes]]] = []

    # Joining ----------------------------------------------------------------------------------------------------

    def join(self, key: str, executable: str, spec_fd: int) -> Joined:
        """Return the generation of a client, begun if it is new; the descriptor is taken over.

        ANY_CODE joins the newest one.
        """
        spec = read_spec(spec_fd)
        current = self._dispatcher.current_generations()
        if key == ANY_CODE and current:
            found = Joined(current[0], "")
        else:
            found = self._find(key, spec) or self._begin_current(CodeVersion(key, executable, spec), spec_fd)
        if found.generation in current:
            os.close(spec_fd)
        found.generation.clients += 1
        return found

    def declare(self, generation: Generation, files: Mapping[str, Source]) -> Joined:
        """Return the generation of a client that has seen more source files; it may have to be another one."""
        version = self._versions[generation]
        if not version.conflicts(files):
            version.add(files)
            return Joined(generation, "")
        spec = version.to_spec()
        spec = spec._replace(files={**spec.files, **files})
        found = self._find(version.key, spec)
        if found is None:
            spec_fd = self._templates.duplicate_spec(generation)
            found = self._begin_current(CodeVersion(version.key, version.executable, spec), spec_fd)
        found.generation.clients += 1
        generation.clients -= 1
        return found

    def _find(self, key: str, spec: CodeSpec) -> Joined | None:
        """Return the generation that has the code of a client; the newest of the same key if there are too many."""
        same = [g for g in self._dispatcher.current_generations() if self._versions[g].key == key]
        for generation in same:
            version = self._versions[generation]
            if not version.conflicts(spec.files):
                version.add(spec.files)
                return Joined(generation, _tell_variables(version.differing_variables(spec.environment)))
        if len(same) < _MAX_OF_A_KEY:
            return None
        files = name_files(self._versions[same[0]].conflicts(spec.files))
        return Joined(
            same[0],
            f"jobs run another version of {files} than this process has: the pool has loaded {len(same)} versions for other "
            "processes, and loads no more. Restart those; reload() has all jobs run the files as they are now",
        )

    def _begin_current(self, version: CodeVersion, spec_fd: int) -> Joined:
        others = self._dispatcher.current_generations()
        generation = self._begin(version)
        if others:
            why = version.describe_difference(self._versions[others[0]])
            self._log.write(f"generation {generation.number} begins beside {others[0].number}, {why}")
        self._templates.add(generation, version, spec_fd)
        self._dispatcher.generations.append(generation)
        return Joined(generation, "")

    def _begin(self, version: CodeVersion) -> Generation:
        self._count += 1
        generation = Generation(self._count, version.key)
        self._versions[generation] = version
        return generation

    # Replacing --------------------------------------------------------------------------------------------------

    def reload(self, on_reloaded: OnReloaded, caller: Generation | None = None, renewal: Renewal | None = None) -> None:
        """Begin to load the code of every generation in use anew, that of the caller in the caller's environment.

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
            self._reload_one(old, on_one, renewal if old is caller else None)
        if not current:
            on_reloaded("")

    def _reload_one(self, old: Generation, waiter: OnReloaded, renewal: Renewal | None = None) -> None:
        running = next((reload for reload in self._reloads.values() if reload.old is old), None)
        if running is not None:
            running.waiters_of_next.append((waiter, renewal))
            return
        before = self._versions[old]
        key, environment = renewal or (before.key, before.environment)
        version = CodeVersion(key, before.executable, CodeSpec(before.flags, dict(environment), {}))
        version.files, version.loaded = dict(before.files), set(before.loaded)  # its template tells which are others now
        generation = self._begin(version)
        self._templates.add(generation, version, self._templates.duplicate_spec(old))
        self._reloads[generation] = _Reload(old, waiter)

    def on_ready(self, event: TemplateReady, now: float) -> None:
        """Let a generation whose template is ready take over, if it was loaded to replace another one."""
        generation, changed, declared = event
        generation.ready = True
        if declared is not None:
            self.declared.append((generation, declared))
        generation.problem = ""
        reload = self._reloads.pop(generation, None)
        if reload is None:
            self._tell_changed(generation, changed, now)
            return
        old = reload.old
        if old not in self._dispatcher.generations:  # nobody uses it any more
            self._discard(generation)
            self._end_reload(reload, None, "")
            return
        self._log.write(f"generation {generation.number} has been loaded and takes over from generation {old.number}")
        self._versions[generation].files = {**self._versions[old].files, **changed}
        generation.clients, old.clients = old.clients, 0
        self._dispatcher.generations.append(generation)
        self._dispatcher.supersede(old, generation, now)
        self._end_reload(reload, generation, "")

    def on_files_loaded(self, event: FilesLoaded) -> None:
        """Note what a worker has loaded for a job."""
        generation, files = event
        version = self._versions.get(generation)
        if version is not None and (differing := version.note_loaded(files)):
            self._tell_differing(generation, differing)

    def on_skipped(self, event: ModuleSkipped) -> None:
        """Note a module that is not preloaded; the generation's clients are told."""
        event.generation.notice = "\n".join(filter(None, (event.generation.notice, event.notice)))

    def _tell_changed(self, generation: Generation, changed: Mapping[str, str], now: float) -> None:
        """Note that a template has other files than its clients have loaded; share the workers that have them already."""
        version = self._versions[generation]
        if differing := version.note_loaded(changed):
            found = self._find_ready(version.key, {**version.files, **changed})
            if found is not None:
                found.clients, generation.clients = found.clients + generation.clients, 0
                self._dispatcher.supersede(generation, found, now)
            self._tell_differing(generation, differing)

    def _tell_differing(self, generation: Generation, files: set[str]) -> None:
        text = (
            f"{name_files(files)} changed after this process had loaded it: jobs may run the newer code. Restart this "
            "process, or reload() to have all jobs run the files as they are now. Modules of preload do not change like this"
        )
        self._log.write(f"generation {generation.number}, to its clients: {text}")
        self.notices.append((generation.newest(), text))

    def _find_ready(self, key: str, files: Mapping[str, str]) -> Generation | None:
        """Return a generation that runs these files already."""
        for generation in self._dispatcher.current_generations():
            version = self._versions[generation]
            if generation.ready and version.key == key and files.items() <= version.files.items():
                return generation
        return None

    def on_failed(self, event: TemplateFailed) -> None:
        """Note that a template could not be started or its preload failed; of a reload, the old code stays."""
        generation, problem = event
        reload = self._reloads.pop(generation, None)
        if reload is None:
            generation.problem = problem
            return
        old = reload.old
        self._log.write_warning(f"generation {old.number} stays, the code could not be loaded anew: {problem}")
        self._discard(generation)
        self._end_reload(reload, old if old in self._dispatcher.generations else None, problem)

    def _end_reload(self, reload: _Reload, current: Generation | None, problem: str) -> None:
        """Tell the outcome to the clients that wait for it; begin the next reload for those who came during this one."""
        for waiter in reload.waiters:
            waiter(problem)
        for waiter, renewal in reload.waiters_of_next:
            if current is None:
                waiter("")
            else:
                self._reload_one(current, waiter, renewal)

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

        The newest one stays for the next client, unless it does not work, and others are in use: it was rolled back. Of
        those that only finish their jobs, few stay as they are; jobs that wait in others run on newer code.
        """
        generations = self._dispatcher.generations
        if len(generations) == 1:
            return
        left = 0
        for generation in reversed(generations.copy()):
            if generation.clients:
                continue
            if generation.unfinished:
                left += generation.successor is None and generation is not generations[-1]
                if left > _MAX_LEFT and generation.successor is None:
                    self._hand_over(generation, now)
                continue
            if generation is generations[-1] and (generation.ready or not any(g.clients for g in generations)):
                continue
            self._dispatcher.retire_generation(generation, now)
            if not generation.slots:
                generations.remove(generation)
                self._discard(generation)

    def _hand_over(self, generation: Generation, now: float) -> None:
        """Let the newest code have the jobs that wait for one whose clients have gone."""
        newest = self._dispatcher.current_generations()[0]
        self._log.write(
            f"generation {generation.number} has no clients, and more than {_MAX_LEFT} newer ones are left like it: "
            f"its jobs that wait run on generation {newest.number}"
        )
        self._dispatcher.supersede(generation, newest, now)
        self._templates.end(generation)

    def _discard(self, generation: Generation) -> None:
        del self._versions[generation]
        self._templates.discard(generation)


def _tell_variables(names: list[str]) -> str:
    """Return a warning that the workers' environment differs, without values; empty text where it does not."""
    if not names:
        return ""
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return (
        f"jobs run in another environment than this process has; other values have: {', '.join(names[:_MAX_NAMED])}{more}. "
        f"Pool(environment={names[:_MAX_NAMED]!r}) gives processes with other values workers of their own; reload() has all "
        "jobs run with the values that this process has"
    )
