"""The pool's log file: lines with a time, bounded in size."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from procjobs.shared import private_files
from procjobs.shared.log_lines import WARNING

MAX_BYTES: Final = 1024 * 1024
_MAX_LABELLED: Final = 1000
"""Where more lines come at once, only the first has a label: 32,000 labels for a pipe full of `yes` are some megabytes."""


class Log:
    """Appends lines to a file; when it has grown to `MAX_BYTES`, it becomes `log.1` and a new one is begun.

    The `logging` package does the same and costs a tenth of the time in which a pool has to be ready.
    """

    def __init__(self, path: str, echo: Callable[[bytes], None] | None = None) -> None:
        """`echo` gets a copy of all lines."""
        self._path = path
        self._echo = echo
        self._open()

    def _open(self) -> None:
        self.fd = private_files.open_or_create(self._path, os.O_APPEND)

    def write(self, text: str) -> None:
        """Write a line; lines of a longer text are indented."""
        self._append(f"{_stamp()} {text.strip()}".replace("\n", "\n    ").encode(errors="replace") + b"\n")

    def write_warning(self, text: str) -> None:
        """Write a line, and lines below it, that somebody should look at."""
        self.write(f"{WARNING}{text.strip()}")

    def write_output(self, label: str, lines: bytes) -> None:
        """Write lines of the output of a job, each with its label."""
        head = f"{_stamp()} [{label}] ".encode(errors="replace")
        next_head = head if lines.count(b"\n") < _MAX_LABELLED else b"    "
        self._append(head + lines.replace(b"\n", b"\n" + next_head) + b"\n")

    def _append(self, data: bytes) -> None:
        if self._echo is not None:
            self._echo(data)
        try:
            os.write(self.fd, data)
            if os.fstat(self.fd).st_size > MAX_BYTES:
                self._rotate()
        except OSError:
            return  # a full disk must not stop the pool; the log is all that suffers

    def _rotate(self) -> None:
        full = self.fd
        try:
            os.replace(self._path, self._path + ".1")
            self._open()
        except OSError:  # somebody has removed the directory: the file is kept, and bounded all the same
            os.ftruncate(full, 0)
        else:
            os.close(full)

    def stop_echo(self) -> None:
        """Write to the file alone from now on."""
        self._echo = None

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


def _stamp() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
