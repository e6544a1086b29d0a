"""Calls that are submitted together, all or none.

The SUBMIT frames of a batch are the contents of a memory file, and one small frame brings that to the supervisor. So a batch
is there whole or not at all, whatever becomes of this process in between. Descriptors of large payloads are staged before
it; those that no batch claims are dropped by the supervisor.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from procjobs.errors import ConfigurationError, PayloadError
from procjobs.host import payload
from procjobs.shared import wire
from procjobs.shared.wire import BATCH, MAX_BATCH_BYTES, MAX_STAGED, U64, Frame

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Sequence

    from procjobs.client.connection.submission import Submission
    from procjobs.host.descriptors import Descriptor

_PART: Final = "submit the calls in several parts"


class Batch:
    """Submissions on their way together; otherwise as one `Submission`."""

    __slots__ = ("_number", "file", "frame", "submissions", "went")

    def __init__(self, submissions: Sequence[Submission], directory: str) -> None:
        """Raise ConfigurationError for a batch that is too large, PayloadError if there is no memory for its file."""
        size = sum(len(submission.frame) for submission in submissions)
        if size > MAX_BATCH_BYTES:
            raise ConfigurationError(
                f"these {len(submissions)} calls take {size} bytes, and {MAX_BATCH_BYTES} may go together: {_PART}, or give "
                "large arguments as bytes, arrays or paths"
            )
        if len(self.staged_of(submissions)) > MAX_STAGED:
            raise ConfigurationError(
                f"more than {MAX_STAGED} of these {len(submissions)} calls have arguments of more than 64 KiB: {_PART}"
            )
        self.submissions = submissions
        self._number = int.from_bytes(os.urandom(8), "little")
        try:
            self.file: Descriptor = payload.memory_file(b"".join(s.frame for s in submissions), directory)
        except OSError as error:
            raise PayloadError(f"there is no room for a batch of {len(submissions)} calls, {size} bytes: {error}") from error
        self.frame = wire.frame(Frame.SUBMIT_MANY, BATCH.pack(self._number, len(submissions)), descriptors=1)
        self.went: list[int] = []

    @staticmethod
    def staged_of(submissions: Sequence[Submission]) -> list[Descriptor]:
        """Return the files of those that have one, in order."""
        return [submission.file for submission in submissions if submission.file is not None]

    def stages(self) -> list[tuple[bytes, Descriptor]]:
        """Return the frames that go before it, each with its file."""
        stage = wire.frame(Frame.STAGE, U64.pack(self._number), descriptors=1)
        return [(stage, file) for file in self.staged_of(self.submissions)]


def first_batch(waiting: deque[Submission]) -> list[Submission]:
    """Return the submissions that went together with the first one."""
    mark = waiting[0].batch
    return [submission for submission in waiting if submission.batch is mark]


def drop_first(waiting: deque[Submission], count: int) -> None:
    """Take out this many from the beginning."""
    for _ in range(count):
        waiting.popleft()
