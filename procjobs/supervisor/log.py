"""The pool's log file: lines with a time, bounded in size."""

from __future__ import annotations

import os
import time
from typing import Final

MOST_BYTES: Final = 1024 * 1024


class Log:
    """Appends lines to a file; when it has grown to `MOST_BYTES`, it becomes `log.1` and a new one is begun.

    The `logging` package does the same and costs a tenth of the time in which a pool has to be ready.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._open()

    def _open(self) -> None:
        self.fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, text: str) -> None:
        """Write a line; lines of a longer text are indented."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            os.write(self.fd, f"{stamp} {text.strip()}".replace("\n", "\n    ").encode(errors="replace") + b"\n")
            if os.fstat(self.fd).st_size > MOST_BYTES:
                os.replace(self._path, self._path + ".1")
                os.close(self.fd)
                self._open()
        except OSError:
            return  # a full disk must not stop the pool; the log is all that suffers

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)
