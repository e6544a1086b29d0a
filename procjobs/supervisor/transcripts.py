"""The tail of a job's output."""

from __future__ import annotations

from typing import Final

TAIL_BYTES: Final = 16 * 1024
STDERR_TAIL_BYTES: Final = 4 * 1024


class Tail:
    """The last bytes of a stream; `length` is the number of all its bytes."""

    __slots__ = ("_data", "_max_bytes", "length")

    def __init__(self, max_bytes: int) -> None:
        self._data = b""
        self._max_bytes = max_bytes
        self.length = 0

    def __len__(self) -> int:
        return len(self._data)

    def append(self, data: bytes) -> None:
        """Add to the end. Bytes beyond the limit are dropped from the beginning, up to the end of a line if there is one."""
        self.length += len(data)
        joined = self._data + data
        if len(joined) > self._max_bytes:
            joined = joined[-self._max_bytes :]
            cut = joined.find(b"\n", 0, self._max_bytes // 2) + 1
            joined = joined[cut:]
        self._data = joined

    def text(self) -> str:
        """Return the tail as text."""
        return self._data.decode(errors="replace")

    def text_since(self, length: int) -> str:
        """Return the text that has come since the stream had this length, as far as it is still here."""
        count = min(self.length - length, len(self._data))
        return self._data[len(self._data) - count :].decode(errors="replace")


class Transcript:
    """The output of a job: both streams in the order in which they were read, and standard error alone."""

    __slots__ = ("_begun_at", "everything", "stderr")

    def __init__(self) -> None:
        self._begun_at = 0
        self.everything = Tail(TAIL_BYTES)
        self.stderr = Tail(STDERR_TAIL_BYTES)

    def __len__(self) -> int:
        return len(self.everything) + len(self.stderr)

    def begin_attempt(self) -> None:
        """Let standard error be that of the attempt to come."""
        self._begun_at = self.everything.length
        self.stderr = Tail(STDERR_TAIL_BYTES)

    def text_of_attempt(self) -> str:
        """Return the tail of the output of this attempt."""
        return self.everything.text_since(self._begun_at)
