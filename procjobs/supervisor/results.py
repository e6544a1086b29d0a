"""Answers that are kept, so that any process of the host can ask for them by job id.

Bounded three ways: by time (`result_ttl`), by number, and by memory. Beyond `result_memory_bytes`, and beyond a number of
open descriptors, the oldest answers move into files of the pool's directory: a slice in each turn of the supervisor's loop.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final
from zlib import crc32

from procjobs.clock import NEVER
from procjobs.shared import private_files
from procjobs.shared.table.state_writer import MAX_KEPT
from procjobs.supervisor.answers import Answer, EvictedAnswer, SpilledAnswer

if TYPE_CHECKING:
    from procjobs.shared.config import PoolSettings
    from procjobs.supervisor.job import SupervisedJob

_SLICE_BYTES: Final = 1024 * 1024
_MAX_TRANSCRIPT_BYTES: Final = 16 * 2**20
"""The most bytes that the transcripts of all finished jobs take together; beyond it the oldest are dropped."""
_TRANSCRIPT_OVERHEAD_BYTES: Final = 512
"""The memory that a transcript costs besides its text, about: most jobs print a line or two."""


class ResultStore:
    """Keeps the answered jobs, the oldest first to go."""

    def __init__(self, directory: str, settings: PoolSettings, *, max_fds: int) -> None:
        self._directory = directory
        self._ttl = settings.result_ttl
        self._memory_bytes = settings.result_memory_bytes
        self._max_fds = max_fds
        self._kept: deque[SupervisedJob] = deque()
        self._in_memory: deque[SupervisedJob] = deque()
        self._used_bytes = 0
        self._fds = 0
        self._files = 0
        self._moving: tuple[SupervisedJob, int, str, int] | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, job: SupervisedJob, frame: bytes, fd: int | None, now: float) -> None:
        """Take a job's answer; the descriptor belongs to the store from now on."""
        job.answer = answer = Answer(frame, fd, now)
        self._kept.append(job)
        self._in_memory.append(job)
        self._used_bytes += answer.size
        self._fds += fd is not None

    def next_deadline(self) -> float:
        """Return when there is something to do: at once while answers are to be moved, else when the oldest expires."""
        if self._is_over():
            return 0.0
        return self._kept[0].answer.kept_at + self._ttl if self._kept else NEVER

    def _is_over(self) -> bool:
        over = self._used_bytes > self._memory_bytes or self._fds > self._max_fds
        return self._moving is not None or (over and bool(self._in_memory))

    def pop_expired(self, now: float) -> SupervisedJob | None:
        """Take out the oldest job if its time is over or there are too many; None if nothing is to go.

        Answers that are still to be sent do not count: only a full table evicts them before their time.
        """
        if not self._kept:
            return None
        oldest = self._kept[0]
        is_one_too_many = len(self._kept) > MAX_KEPT and not oldest.unsent
        return self.pop_oldest() if is_one_too_many or oldest.answer.kept_at + self._ttl <= now else None

    def pop_oldest(self) -> SupervisedJob | None:
        """Take out the oldest job, None when there is none."""
        if not self._kept:
            return None
        job = self._kept.popleft()
        if self._moving is not None and self._moving[0] is job:
            self._abandon_move()
        self._release(job)
        if self._in_memory and self._in_memory[0] is job:
            self._in_memory.popleft()
        job.answer.drop()
        job.answer = EvictedAnswer(job.answer.kept_at) if job.unsent else None
        return job

    def _release(self, job: SupervisedJob) -> None:
        answer = job.answer
        if isinstance(answer, Answer):
            self._used_bytes -= answer.size
            self._fds -= answer.fd is not None

    def spill_some(self) -> None:
        """Move some of the oldest answers out of memory while the bound is exceeded: about a mebibyte a call."""
        budget = _SLICE_BYTES
        while budget > 0 and self._is_over():
            if self._moving is not None:
                budget -= self._try(self._moving[0], self._continue_move)
            else:
                job = self._in_memory.popleft()
                budget -= self._try(job, partial(self._begin_move, job))

    def _try(self, job: SupervisedJob, move: Callable[[], int]) -> int:
        """Move; where the file system has no room or the directory is gone, the answer is given up once it is sent."""
        try:
            return move()
        except OSError:
            if self._moving is not None:
                self._abandon_move()
            if job.unsent:
                return 1
            self._release(job)
            job.answer.drop()
            job.answer = EvictedAnswer(job.answer.kept_at)
            return 1

    def _begin_move(self, job: SupervisedJob) -> int:
        answer = job.answer
        if not isinstance(answer, Answer):
            return 0
        self._files += 1
        path = f"{self._directory}/results-{self._files}"
        out = private_files.create(path)
        if answer.fd is not None:
            self._moving = (job, out, path, 0)
            return 0
        with open(out, "wb") as file:
            file.write(answer.frame)
        self._release(job)
        job.answer = SpilledAnswer(b"", path, answer.kept_at, checksum=crc32(answer.frame))
        return answer.size

    def _continue_move(self) -> int:
        assert self._moving is not None
        job, out, path, position = self._moving
        answer = job.answer
        moved = os.sendfile(out, answer.fd, position, _SLICE_BYTES)
        if moved:
            self._moving = (job, out, path, position + moved)
            return moved
        os.close(out)
        self._moving = None
        self._release(job)
        answer.drop()
        job.answer = SpilledAnswer(answer.frame, path, answer.kept_at)
        return 1

    def _abandon_move(self) -> None:
        assert self._moving is not None
        _, out, path, _ = self._moving
        self._moving = None
        os.close(out)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def close(self) -> None:
        """Drop everything."""
        while self.pop_oldest() is not None:
            pass


class KeptTranscripts:
    """The transcripts of jobs that have ended, the oldest first to go. Each goes with its job at the latest."""

    def __init__(self, max_bytes: int = _MAX_TRANSCRIPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._sizes: OrderedDict[SupervisedJob, int] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def keep(self, job: SupervisedJob) -> None:
        """Keep the transcript of a job that has ended, for as long as there is room."""
        if job.transcript is None or job in self._sizes:
            return
        self._sizes[job] = size = len(job.transcript) + _TRANSCRIPT_OVERHEAD_BYTES
        self._bytes += size
        while self._bytes > self._max_bytes:
            oldest, size = self._sizes.popitem(last=False)
            self._bytes -= size
            oldest.transcript = None

    def drop(self, job: SupervisedJob) -> None:
        """Let go of a job that is forgotten; do nothing if it has none here."""
        self._bytes -= self._sizes.pop(job, 0)
