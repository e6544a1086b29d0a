"""The ends of processes: reaps the children that have ended, and kills everything that a dead worker left running.

Whatever a job has started, in whatever session, becomes a child of the supervisor when its worker dies (the supervisor is
the subreaper). So an orphan is a child that is neither a worker nor a template, and was not started to outlive its job.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from procjobs.host import observe, process

if TYPE_CHECKING:
    from procjobs.supervisor.log import Log
    from procjobs.supervisor.workers.hook_runner import HookRunner
    from procjobs.supervisor.workers.processes import WorkerProcesses
    from procjobs.supervisor.workers.templates import Templates


class Reaper:
    """Knows which children are workers and templates; all others are orphans."""

    def __init__(
        self, workers: WorkerProcesses, templates: Templates, hooks: HookRunner, mark: str, log: Log
    ) -> None:
        """`mark` is in the environment of everything that comes from a template."""
        self._workers = workers
        self._templates = templates
        self._hooks = hooks
        self._mark = mark
        self._log = log
        self._may_have_orphans = False

    def reap(self, read_templates: Callable[[], None]) -> Iterator[process.Exit]:
        """Yield every child that has ended.

        `read_templates` is called before a pid is given back: a template's word that the pid is a worker's may still be
        unread. The processes of the worker's own group are killed while its pid is taken.
        """

        def before_reaping(pid: int) -> None:
            read_templates()
            self._workers.before_reaping(pid)
            self._hooks.before_reaping(pid)

        yield from process.reap_children(before_reaping)

    def expect_orphans(self) -> None:
        """Look for orphans at the end of this turn: a worker or a template has ended."""
        self._may_have_orphans = True

    def kill_orphans(self, read_templates: Callable[[], None]) -> None:
        """Kill everything that dead workers have left running. A new worker is known before it is our child."""
        if not self._may_have_orphans:
            return
        self._may_have_orphans = False
        children = self._orphans_and_others()
        read_templates()
        for pid in children - self._workers.pids() - self._templates.pids() - self._hooks.pids():
            self._log.write(f"process {pid}, left by a worker that has ended, is killed")
            process.kill_process(pid, signal.SIGKILL)
            self._may_have_orphans = True  # the processes that it has started come to us next

    def _orphans_and_others(self) -> set[int]:
        return observe.own_children(only_marked=self._mark if os.getpid() == 1 else None)

    def close(self, seconds: float) -> None:
        """Kill the rest of the workers' descendants; the workers themselves have ended."""
        while orphans := self._orphans_and_others():
            for pid in orphans:
                process.kill_process(pid, signal.SIGKILL)
            process.wait_for_child(min(orphans), seconds)
