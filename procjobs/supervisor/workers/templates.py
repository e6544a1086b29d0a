"""The template processes: one for each generation of code, from which its workers are forked.

A template imports the preload and then forks on request. Its messages come up as events; which generation takes over from
which is decided above (procjobs.supervisor.generations).
"""

from __future__ import annotations

import json
import os
import socket
from base64 import b64decode
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from procjobs.clock import NEVER
from procjobs.dispatch.limits import MIN_SECONDS_LEFT
from procjobs.host import cpus, hostinfo, observe, payload, process
from procjobs.host.loop import Loop
from procjobs.shared.code_spec import check_texts, renewed_spec
from procjobs.shared.wire import WireError, parse_json
from procjobs.supervisor.workers.events import (
    ForkRefused,
    HooksForked,
    HooksRefused,
    ModuleSkipped,
    TemplateEvent,
    TemplateExited,
    TemplateFailed,
    TemplateReady,
    WorkerForked,
)
from procjobs.supervisor.workers.template_link import TemplateLink

if TYPE_CHECKING:
    from procjobs.dispatch.model import Generation
    from procjobs.host.descriptors import Descriptor
    from procjobs.host.rundir import RunDir
    from procjobs.shared.config import PoolSettings
    from procjobs.shared.table.state_writer import TableWriter
    from procjobs.supervisor.code_version import CodeVersion
    from procjobs.supervisor.log import Log

_START: Final = (
    "import sys, json; a = json.loads(sys.argv[1]); sys.path[:0] = a['path']; "
    "from procjobs.template.template import main; main(a)"
)
_REMEDY: Final = "If that is slow, let it compute in a function, not when it is imported; or leave it out of preload"
_RETRY_PAUSE: Final = 0.1
_END_TIMEOUT: Final = 5.0


class TemplateState:
    """How the template of a generation is started, and the process that runs now.

    `files` is shared with it: the digests of the source files, and when it is ready those that have changed, and more.
    `skip` are the modules that it does not preload; with `starts_anew` it is about to end by itself because it has found one
    more of them.
    """

    __slots__ = ("files", "link", "ready_by", "skip", "spec_fd", "starts_anew", "version")

    def __init__(self, version: CodeVersion, spec_fd: int) -> None:
        self.version = version
        self.spec_fd = spec_fd
        self.files: Descriptor | None = None
        self.skip: list[str] = []
        self.starts_anew = False
        self.ready_by = NEVER
        self.link: TemplateLink | None = None

    def read_news(self) -> tuple[dict[str, str], list[bytes] | None]:
        """Return the source files that were others when the template was ready, and the schedules that its modules declare.

        Raise WireError for nonsense.
        """
        if self.files is None:
            return {}, None
        with self.files as files:
            self.files = None
            news = parse_json(os.pread(files.fileno(), os.fstat(files.fileno()).st_size, 0))
        try:
            declared = news["schedules"]
            bodies = None if declared is None else [b64decode(text, validate=True) for text in declared]
            return check_texts(news["files"]), bodies
        except (KeyError, TypeError, ValueError) as error:
            raise WireError(f"what a template tells of its code makes no sense: {error!r}") from None


class Templates:
    """Keeps one template running for each generation that may need workers."""

    def __init__(
        self, loop: Loop, directory: RunDir, table: TableWriter, settings: PoolSettings, mark: str, log: Log, *,
        max_fds: int,
    ) -> None:  # fmt: skip
        """`mark` goes into the environment of every process that comes from a template, `max_fds` is its limit."""
        self._loop = loop
        self._directory = directory
        self._table = table
        self._settings = settings
        self._mark = mark
        self._log = log
        self._max_fds = max_fds
        self._states: dict[Generation, TemplateState] = {}
        self._ending: set[int] = set()

    # Coming and going -------------------------------------------------------------------------------------------

    def add(self, generation: Generation, version: CodeVersion, spec_fd: int) -> None:
        """Expect a template for a new generation; the descriptor of its specification is taken over."""
        self._states[generation] = TemplateState(version, spec_fd)

    def duplicate_spec(self, generation: Generation) -> int:
        """Return another descriptor of a generation's specification, for a generation that is to be like it."""
        return os.dup(self._states[generation].spec_fd)

    def end(self, generation: Generation) -> None:
        """End the template of a generation that needs no more workers."""
        state = self._states[generation]
        if state.link is not None:
            process.kill_process(state.link.pid, 9)

    def describe(self, generation: Generation) -> tuple[str, bytes]:
        """Return the interpreter and the specification of a generation's template, with what its clients have said since."""
        state = self._states[generation]
        return state.version.executable, renewed_spec(state.spec_fd, state.version.to_spec())

    def discard(self, generation: Generation) -> None:
        """End the template of a generation that is not used any more."""
        state = self._states.pop(generation)
        if state.link is not None:
            self._ending.add(state.link.pid)
        self._drop_link(state)
        os.close(state.spec_fd)

    def pids(self) -> set[int]:
        """Return the pids of the templates, of those that were just killed too."""
        return {state.link.pid for state in self._states.values() if state.link is not None} | self._ending

    # Starting ---------------------------------------------------------------------------------------------------

    def start_missing(self, now: float, max_workers: int) -> list[TemplateEvent]:
        """Start the templates that are not there and may be tried; kill those that import for too long.

        `max_workers` is how many workers share the CPUs at the most.
        """
        events: list[TemplateEvent] = []
        for generation, state in list(self._states.items()):
            if state.link is None and _may_start(generation, now):
                try:
                    self._start(state, max_workers)
                except (OSError, ValueError) as error:  # ValueError: a path with a zero or a lone surrogate in it
                    generation.budget.add_failure(now)
                    generation.budget.not_before = max(generation.budget.not_before, now + _RETRY_PAUSE)
                    text = f"the template {state.version.executable} could not be started: {error}"
                    events.append(TemplateFailed(generation, text))
            elif state.ready_by <= now and state.link is not None:
                state.ready_by = NEVER
                text = f"the preload has not ended after {self._settings.start_timeout:g} s (start_timeout)"
                generation.problem = generation.problem or text
                process.kill_process(state.link.pid, 9)
        return events

    def next_deadline(self, now: float) -> float:
        """Return when a template that could not be started may be tried again, or one has imported for too long."""
        deadline = NEVER
        for generation, state in self._states.items():
            if state.link is not None:
                deadline = min(deadline, state.ready_by)
            elif _may_start(generation, NEVER):
                deadline = min(deadline, max(generation.budget.not_before, now))
        return deadline

    def extend_deadlines(self, seconds: float, now: float) -> None:
        """Give templates that import more time: for so long nobody has looked whether they are ready."""
        for state in self._states.values():
            if state.ready_by < NEVER:
                state.ready_by = max(state.ready_by + seconds, now + MIN_SECONDS_LEFT)

    def _start(self, state: TemplateState, max_workers: int) -> None:
        arguments = {
            "path": [os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))],
            "supervisor_pid": os.getpid(),
            "directory": self._directory.path,
            "nice": self._settings.nice,
            "record_arguments": self._settings.record_arguments,
            "rows_offset": self._table.rows_offset,
            "max_fds": self._max_fds,
            "skip": state.skip,
            "job_defaults": asdict(self._settings.job_defaults),
        }
        version = state.version
        threads = self._thread_variables(version.environment, max_workers)
        environment = {**version.environment, **threads, observe.MARK: self._mark}
        environment.pop(observe.DETACHED, None)  # it tells about a supervisor, not about its children
        state.files = payload.memory_file(json.dumps(version.files).encode(), self._directory.base)
        pid, ours = process.spawn_linked(
            [version.executable, *version.flags, "-c", _START, json.dumps(arguments)],
            env=environment,
            kind=socket.SOCK_SEQPACKET,
            passed=[state.spec_fd, self._table.fd, state.files.fileno()],
        )
        state.link = TemplateLink(ours, pid)
        state.ready_by = self._loop.now + self._settings.start_timeout
        self._loop.add(ours.fileno(), self)

    def _thread_variables(self, environment: Mapping[str, str], max_workers: int) -> dict[str, str]:
        """Return the variables that tell libraries how many threads to start: for as many workers as there may be at once.

        They are read once, when a library is imported. So after a resize they hold from the next reload on.
        """
        count = hostinfo.usable_cpus(hostinfo.read_cpu_facts())
        return cpus.thread_variables(self._settings.threads, workers=max_workers, cpus=count, environment=environment)

    # Asking -----------------------------------------------------------------------------------------------------

    def spawn(self, generation: Generation, slot: int, on_cpus: list[int], fds: list[int]) -> bool:
        """Ask the generation's template for a worker; return whether it could be asked."""
        link = self._states[generation].link
        return link is not None and link.spawn(slot, on_cpus, fds)

    def fork_hooks(self, generation: Generation, fd: int) -> bool:
        """Ask the generation's template for the process that calls hooks; return whether it could be asked."""
        state = self._states.get(generation)
        return state is not None and state.link is not None and state.link.fork_hooks(fd)

    def kill(self, generation: Generation) -> None:
        """Kill a generation's template, which does not answer a request, or has sent nonsense."""
        state = self._states.get(generation)  # none where an earlier one of its messages had it discarded
        if state is not None and state.link is not None:
            process.kill_process(state.link.pid, 9)

    def kill_for_protocol_error(self, generation: Generation, error: Exception) -> None:
        """Kill a template that has sent nonsense."""
        self._log.write_warning(f"the template of generation {generation.number} is killed: it sent nonsense: {error!r}")
        self.kill(generation)

    def forget_worker(self, generation: Generation, pid: int) -> None:
        """Tell the template that a worker has gone."""
        state = self._states.get(generation)
        if state is not None and state.link is not None:
            state.link.forget(pid)

    # Reading ----------------------------------------------------------------------------------------------------

    def read_all(self) -> list[TemplateEvent]:
        """Return the events in the messages of templates."""
        events: list[TemplateEvent] = []
        for generation, state in list(self._states.items()):
            if state.link is None:
                continue
            try:
                for message in state.link.read():
                    events += self._parse(generation, state, message)
            except (WireError, LookupError, TypeError, ValueError) as error:
                self.kill_for_protocol_error(generation, error)
        return events

    def _parse(self, generation: Generation, state: TemplateState, message: dict[str, Any]) -> list[TemplateEvent]:
        if "threads" in message:
            return [self._skip(generation, state, str(message["threads"]), message.get("native") or [])]
        if "ready" in message:
            state.ready_by = NEVER
            return [TemplateReady(generation, *state.read_news())]
        if "failed" in message:
            return [TemplateFailed(generation, str(message["failed"]))]
        if "hooks" in message:
            pid = message["hooks"]
            return [HooksForked(generation, pid) if pid else HooksRefused(str(message["why"]))]
        if "spawned" in message:
            return [WorkerForked(generation, message["spawned"], message.get("pid"))]
        return [ForkRefused(generation, message["refused"], str(message["why"]))]

    def _skip(
        self, generation: Generation, state: TemplateState, module: str, native: list[Any]
    ) -> ModuleSkipped:
        """Leave out a module that cannot be preloaded; the template ends by itself and is started again."""
        state.skip.append(module)
        state.starts_anew = True
        notice = f"{module} {_describe_threads(native)}: it is not preloaded, and workers import it themselves"
        self._log.write(f"generation {generation.number}: {notice}")
        return ModuleSkipped(generation, f"{notice}. {_REMEDY}")

    def on_exit(self, exited: process.Exit) -> list[TemplateEvent]:
        """Note the end of a process; if it was a template, it is started again when its budget allows."""
        self._ending.discard(exited.pid)
        for generation, state in self._states.items():
            if state.link is not None and state.link.pid == exited.pid:
                self._drop_link(state)
                starts_anew, state.starts_anew = state.starts_anew, False
                return [TemplateExited(generation, (exited.signal, exited.code), starts_anew)]
        return []

    def _drop_link(self, state: TemplateState) -> None:
        state.ready_by = NEVER
        state.files = None
        if state.link is not None:
            self._loop.remove(state.link.socket.fileno())
            state.link.stop()
            state.link = None

    def close(self) -> None:
        """End all templates."""
        for state in self._states.values():
            pid = state.link.pid if state.link is not None else None
            self._drop_link(state)
            if pid is not None:
                process.wait_for_child(pid, _END_TIMEOUT)
            os.close(state.spec_fd)


def _describe_threads(native: list[Any]) -> str:
    """Return why a module is not preloaded. `native` are the names of its native threads, none if it has Python threads."""
    if not native:
        return "starts a thread when it is imported, and a fork copies locks but no threads"
    counts = Counter(map(str, native))
    names = ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items())
    return f"starts native threads when it is imported ({names}), of which a fork has none, while the library waits for them"


def _may_start(generation: Generation, now: float) -> bool:
    """Return whether a template may be tried: one that has failed, and that nobody needs, is left alone.

    Nor does a generation need one whose successor has taken over: its running jobs have their workers already.
    """
    is_needed = generation.clients or generation.unfinished or not generation.problem
    return bool(is_needed) and generation.successor is None and generation.budget.not_before <= now
