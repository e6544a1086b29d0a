"""Reads single keys, and always restores the terminal."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from types import TracebackType
from typing import Any, Final, NoReturn, Self

from procjobs.clock import monotonic

_SEQUENCES: Final = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"k": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"j": "down",
    b"\x1b": "q",
}


class Keyboard:
    """Reads keys from standard input in cbreak mode: without echo, without waiting for a line.

    The terminal is restored at the end of the block, also after an exception or SIGTERM. Ctrl-Z does nothing, because the
    shell would come back on the alternate screen of the picture.
    """

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._before: list[Any] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._fd)
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._handlers[number] = signal.signal(number, _leave)
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        tty.setcbreak(self._fd)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def read(self, until: float) -> str | None:
        """Return the next key, or None if no key is pressed before the monotonic time `until`; `"q"` after a hangup."""
        while True:
            ready, _, _ = select.select([self._fd], [], [], max(until - monotonic(), 0.0))
            if not ready:
                return None
            try:
                data = os.read(self._fd, 16)
            except OSError:
                return "q"
            if not data:
                return "q"
            key = _SEQUENCES.get(data) or _first_key(data)
            if key is not None:
                return key


def _first_key(data: bytes) -> str | None:
    """Return the first key of several that were pressed before one read."""
    for sequence, name in _SEQUENCES.items():
        if len(sequence) > 1 and data.startswith(sequence):
            return name
    text = data.decode(errors="ignore")
    return text[0] if text and text[0].isprintable() else None


def _leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)
