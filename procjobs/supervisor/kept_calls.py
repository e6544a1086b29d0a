"""The calls of jobs that ended otherwise than well, kept so that they can be repeated: as long as their results, or shorter.

Bounded by bytes and by open descriptors: beyond either the oldest go first. A pool with a store keeps none here, since the
store does.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from procjobs.shared import checkpoints
from procjobs.shared.states import JobState

if TYPE_CHECKING:
    from procjobs.supervisor.job import SupervisedJob

MAX_BYTES: Final = 64 * 2**20
_OVERHEAD_BYTES: Final = 256
_UNSUCCESSFUL: Final = frozenset({JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})


def can_be_repeated(state: JobState) -> bool:
    """Return whether a job in this state can be submitted again by its id."""
    return state in _UNSUCCESSFUL


class KeptCalls:
    """Keeps the payloads of ended jobs where they are: in the jobs."""

    def __init__(self, directory: str, *, max_bytes: int, max_fds: int) -> None:
        """`directory` is where the jobs' checkpoints are, which go with their calls."""
        self._directory = directory
        self._max_bytes = max_bytes
        self._max_fds = max_fds
        self._sizes: OrderedDict[SupervisedJob, int] = OrderedDict()
        self._bytes = 0
        self._fds = 0

    def __contains__(self, job: SupervisedJob) -> bool:
        return job in self._sizes

    def keep(self, job: SupervisedJob) -> bool:
        """Keep the call of a job, and let older ones go for it; return False for one that is not to be kept."""
        if job.state not in _UNSUCCESSFUL or not self._max_bytes or job in self._sizes:
            return job in self._sizes
        size = len(job.inline) + _OVERHEAD_BYTES + (os.fstat(job.fd).st_size if job.fd is not None else 0)
        if job.extras.has_checkpoint:
            size += checkpoints.MAX_BYTES
        if size > self._max_bytes:
            return False
        self._sizes[job] = size
        self._bytes += size
        self._fds += job.fd is not None
        while self._bytes > self._max_bytes or self._fds > self._max_fds:
            self.drop(next(iter(self._sizes)))
        return job in self._sizes

    def drop(self, job: SupervisedJob) -> None:
        """Let go of the call of a job; do nothing if it is not kept."""
        if job not in self._sizes:
            return
        self._bytes -= self._sizes.pop(job)
        job.inline = b""
        if job.extras.has_checkpoint:
            job.extras = job.extras._replace(has_checkpoint=False)
            checkpoints.drop(self._directory, job.id)
        if job.fd is not None:
            self._fds -= 1
            os.close(job.fd)
            job.fd = None

    def close(self) -> None:
        """Let go of all."""
        while self._sizes:
            self.drop(next(iter(self._sizes)))
