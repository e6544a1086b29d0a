"""The processes that a job has started, and has left running when it ended."""

from __future__ import annotations

import signal
import sys
from typing import Final

from procjobs.clock import monotonic
from procjobs.host import observe, process

_END_CHILDREN_SECONDS: Final = 5.0
_LOOK_INTERVAL: Final = 0.05


class Children:
    """Ends the children of jobs, except those that are to be kept until the worker ends."""

    def __init__(self) -> None:
        self._kept = observe.own_children() if process.has_children() else set()

    def end(self, *, are_kept: bool, patience: float) -> None:
        """Kill the processes that the job has left running, or note that they are kept.

        With `patience`, they get SIGTERM first and have this number of seconds. Helpers of multiprocessing serve later jobs
        too, and end with the worker by themselves.
        """
        if are_kept:
            self._kept |= observe.own_children()
            return
        spared = self._kept | _multiprocessing_helpers()
        if patience > 0:
            _ask_to_end(spared, patience)
        process.end_children(spared, _END_CHILDREN_SECONDS)


def _ask_to_end(spared: set[int], seconds: float) -> None:
    """Send SIGTERM to the children, and to theirs once they are adopted; return when all have ended, or time is up."""
    deadline = monotonic() + seconds
    asked: set[int] = set()
    while (doomed := observe.own_children() - spared) and (left := deadline - monotonic()) > 0:
        for pid in doomed - asked:
            process.kill_process(pid, signal.SIGTERM)
        asked |= doomed
        process.wait_for_child(min(doomed), min(left, _LOOK_INTERVAL))


def _multiprocessing_helpers() -> set[int]:
    """Return the pids of the processes that the multiprocessing package keeps beside this one."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    return {getattr(tracker, "_pid", None) or 0, getattr(server, "_forkserver_pid", None) or 0} - {0}
