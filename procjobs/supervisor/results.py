"""Answers that are kept, so that any process of the host can ask for them by job id.

Bounded three ways: by time (`result_ttl`), by number, and by memory: beyond `memory_bytes`, and beyond a number of open
descriptors, the oldest answers move into files of the pool's directory. Moving is done in slices, a slice a turn of the
supervisor's loop.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final
from zlib import crc32

from procjobs.clock import NEVER
from procjobs.shared.wire import Outcome, finished_frame

if TYPE_CHECKING:
    from procjobs.dispatch.model import Job
    from procjobs.shared.config import PoolSettings

MAX_KEPT: Final = 32_768
_SLICE_BYTES: Final = 1024 * 1024
_OVERHEAD_BYTES: Final = 512
"""What a kept job costs besides its answer, about."""


class Answer:
    """An answer in memory: its frame, and a descriptor where it is large."""

    __slots__ = ("fd", "frame", "kept_at", "size")

    def __init__(self, frame: bytes, fd: int | None, now: float) -> None:
        self.frame = frame
        self.fd = fd
        self.kept_at = now
        self.size = len(frame) + _OVERHEAD_BYTES + (os.fstat(fd).st_size if fd is not None else 0)

    @property
    def has_descriptor(self) -> bool:
        """Whether a descriptor goes with the frame."""
        return self.fd is not None

    def fetch(self, _job: Job) -> tuple[bytes, int | None, bool]:
        """Return the frame, the descriptor to send with it, and whether that is to be closed after sending."""
        return self.frame, self.fd, False

    def drop(self) -> None:
        """Release what it holds."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class SpilledAnswer:
    """An answer in a file of its own, made of the descriptor's contents; the frame stays in memory where it is small.

    Of a frame in a file, `checksum` is the CRC-32: sent as it is, one that was damaged would end its reader's connection.
    """

    __slots__ = ("_checksum", "_frame", "_path", "kept_at", "size")

    def __init__(self, frame: bytes, path: str, kept_at: float, *, checksum: int = 0) -> None:
        self._frame = frame
        self._path = path
        self._checksum = checksum
        self.kept_at = kept_at
        self.size = 0

    @property
    def has_descriptor(self) -> bool:
        """Whether a descriptor goes with the frame."""
        return bool(self._frame) and os.path.isfile(self._path)

    def fetch(self, job: Job) -> tuple[bytes, int | None, bool]:
        """Read the answer back; a descriptor is opened anew for every reader that is sent it."""
        if self.has_descriptor:
            return self._frame, os.open(self._path, os.O_RDWR | os.O_CLOEXEC), True
        try:
            with open(self._path, "rb") as file:
                frame = file.read()
        except OSError:
            frame = b""
        if self._frame or crc32(frame) != self._checksum:
            return EvictedAnswer(self.kept_at).fetch(job)
        return frame, None, False

    def drop(self) -> None:
        """Remove the file."""
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(self._path)


class EvictedAnswer:
    """What is left for a client that was too slow to take its answer, or of one that could not be kept."""

    __slots__ = ("kept_at",)

    has_descriptor = False

    def __init__(self, kept_at: float) -> None:
        self.kept_at = kept_at

    def fetch(self, job: Job) -> tuple[bytes, int | None, bool]:
        """Return an answer that says so."""
        message = "the result was not fetched in time, or there was no room for it; it is not kept"
        details = {"error": "UnknownJob", "message": message}
        return finished_frame(job.id, Outcome.VERDICT, 0, job.attempt, 0.0, details), None, False

    def drop(self) -> None:
        """Nothing is held."""


class ResultStore:
    """Keeps the answered jobs, the oldest first to go."""

    def __init__(self, directory: str, settings: PoolSettings, *, max_fds: int) -> None:
        self._directory = directory
        self._ttl = settings.result_ttl
        self._memory_bytes = settings.result_memory_bytes
        self._max_fds = max_fds
        self._kept: deque[Job] = deque()
        self._in_memory: deque[Job] = deque()
        self._used_bytes = 0
        self._fds = 0
        self._files = 0
        self._moving: tuple[Job, int, str, int] | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, job: Job, frame: bytes, fd: int | None, now: float) -> None:
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

    def pop_expired(self, now: float) -> Job | None:
        """Take out the oldest job if its time is over or there are too many; None if nothing is to go.

        An answer that is still to be sent counts as many as it likes: only a full table evicts it before its time.
        """
        if not self._kept:
            return None
        oldest = self._kept[0]
        is_one_too_many = len(self._kept) > MAX_KEPT and not oldest.unsent
        return self.pop_oldest() if is_one_too_many or oldest.answer.kept_at + self._ttl <= now else None

    def pop_oldest(self) -> Job | None:
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

    def _release(self, job: Job) -> None:
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

    def _try(self, job: Job, move: Callable[[], int]) -> int:
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

    def _begin_move(self, job: Job) -> int:
        answer = job.answer
        if not isinstance(answer, Answer):
            return 0
        self._files += 1
        path = f"{self._directory}/results-{self._files}"
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
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
