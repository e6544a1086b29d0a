"""The templates of a pool, one for each generation of code: started, restarted, asked for workers, ended."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from procjobs.host import process
from procjobs.host.loop import Loop
from procjobs.host.rundir import RunDir
from procjobs.supervisor.links import TemplateLink

if TYPE_CHECKING:
    from procjobs.supervisor.dispatcher import Dispatcher
    from procjobs.supervisor.jobs import Generation

_START: Final = (
    "import sys, json; a = json.loads(sys.argv[1]); sys.path[:0] = a['path']; "
    "from procjobs.template.template import main; main(a)"
)


class _Origin:
    """How a generation's template is started."""

    def __init__(self, executable: str, spec_fd: int) -> None:
        self.executable = executable
        self.spec_fd = spec_fd
        self.skip: list[str] = []
        self.starts_anew = False
        self.link: TemplateLink | None = None


class Templates:
    """Keeps one template running for each generation."""

    def __init__(
        self,
        loop: Loop,
        on_readable: Callable[[], None],
        directory: RunDir,
        table_fd: int,
        nice: int,
        mark: str,
        log: Callable[[str], None],
    ) -> None:
        """`on_readable` is what the loop calls when a template has something to say."""
        self._loop = loop
        self._on_readable = on_readable
        self._directory = directory
        self._table_fd = table_fd
        self._nice = nice
        self._mark = mark
        self._log = log
        self._origins: dict[Generation, _Origin] = {}

    def add(self, generation: Generation, executable: str, spec_fd: int) -> None:
        """Take on a new generation; its template is started by `start_missing`."""
        self._origins[generation] = _Origin(executable, spec_fd)

    def pids(self) -> set[int]:
        """Return the pids of the templates."""
        return {origin.link.pid for origin in self._origins.values() if origin.link is not None}

    def next_deadline(self, now: float, generations: Iterable[Generation]) -> float:
        """Return when a template that could not be started may be tried again."""
        missing = (g for g in generations if g in self._origins and self._origins[g].link is None)
        return min((max(g.budget.not_before, now) for g in missing), default=float("inf"))

    def start_missing(self, generations: Iterable[Generation], now: float) -> None:
        """Start the templates that are not there and may be tried."""
        for generation in generations:
            origin = self._origins[generation]
            if origin.link is None and generation.budget.not_before <= now:
                try:
                    self._start(generation, origin)
                except (OSError, ValueError) as error:  # ValueError: a path with a zero or a lone surrogate in it
                    generation.problem = f"the template {origin.executable} could not be started: {error}"
                    generation.budget.add_failure(now)
                    generation.budget.not_before = max(generation.budget.not_before, now + 0.1)

    def _start(self, generation: Generation, origin: _Origin) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = {
            "path": [os.path.dirname(os.path.dirname(os.path.dirname(__file__)))],
            "supervisor_pid": os.getpid(),
            "directory": self._directory.path,
            "nice": self._nice,
            "skip": origin.skip,
        }
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            pid = process.spawn(
                [origin.executable, "-c", _START, json.dumps(arguments)],
                env={**os.environ, process.MARK: self._mark},
                stdin=null,
                passed=[theirs.fileno(), origin.spec_fd, self._table_fd],
                own_session=True,
            )
        except (OSError, ValueError):
            ours.close()
            raise
        finally:
            os.close(null)
            theirs.close()
        origin.link = TemplateLink(generation, ours, pid)
        self._loop.add(ours.fileno(), self._on_readable)

    def spawn(self, generation: Generation, slot: int, fds: list[int]) -> bool:
        """Ask the generation's template for a worker; return whether it could be asked."""
        link = self._origins[generation].link
        return link is not None and link.spawn(slot, fds)

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

    def read_all(self) -> Iterator[tuple[Generation, dict[str, Any]]]:
        """Yield what templates have said."""
        for generation, origin in list(self._origins.items()):
            if origin.link is not None:
                for message in origin.link.read():
                    if "threads" in message:
                        self._skip(generation, origin, message["threads"])
                    else:
                        yield generation, message

    def _skip(self, generation: Generation, origin: _Origin, module: str) -> None:
        """Leave out a module that cannot be preloaded; the template ends by itself and is started again."""
        origin.skip.append(module)
        origin.starts_anew = True
        self._log(
            f"generation {generation.number}: {module} starts a thread when it is imported, and a fork copies locks but "
            "no threads: it is not preloaded, and workers import it themselves"
        )

    def on_exit(self, pid: int) -> Generation | None:
        """Note the end of a process; return the generation whose template it was, None if it was none."""
        for generation, origin in self._origins.items():
            if origin.link is not None and origin.link.pid == pid:
                self._drop(origin)
                return generation
        return None

    def starts_anew(self, generation: Generation) -> bool:
        """Return, once, whether the template ended only to be started without a module."""
        origin = self._origins[generation]
        answer, origin.starts_anew = origin.starts_anew, False
        return answer

    def _drop(self, origin: _Origin) -> None:
        if origin.link is not None:
            self._loop.remove(origin.link.socket.fileno())
            origin.link.stop()
            origin.link = None

    def retire_unused(self, dispatcher: Dispatcher, now: float) -> None:
        """End the generations that have been superseded and have neither clients nor jobs."""
        for generation in dispatcher.generations[:-1]:
            if generation.clients or generation.unfinished:
                continue
            dispatcher.retire_generation(generation, now)
            if not generation.slots:
                dispatcher.generations.remove(generation)
                origin = self._origins.pop(generation)
                self._drop(origin)
                os.close(origin.spec_fd)

    def close(self) -> None:
        """End all templates."""
        for origin in self._origins.values():
            pid = origin.link.pid if origin.link is not None else None
            self._drop(origin)
            if pid is not None:
                process.wait_for_child(pid, 5.0)
            os.close(origin.spec_fd)
