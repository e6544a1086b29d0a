"""What jobs print, on its way to standard error: from a private pool's descriptors, or from the tail that a pool keeps."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final, TextIO

from procjobs.errors import SupervisorLost, UnknownJob

if TYPE_CHECKING:
    from rich.console import Console

_ENDS_WITHIN: Final = 1.0
"""How long the last output may take to arrive; a process that was left running may hold the pipe open for ever."""
_MARK_CHARACTERS: Final = 512


def unseen(before: str, now: str) -> str:
    """Return what has been added to a text of which only the end is kept.

    >>> unseen("abc", "abcde"), unseen("abc", "cde"), unseen("", "x"), unseen("abc", "xyz")
    ('de', 'de', 'x', 'xyz')
    """
    if now.startswith(before):
        return now[len(before) :]
    mark = before[-_MARK_CHARACTERS:]
    while mark:
        at = now.find(mark)
        if at >= 0 and (len(mark) > 16 or at == 0):
            return now[at + len(mark) :]
        mark = mark[len(mark) // 2 + 1 :] if len(mark) > 16 else mark[1:]
    return now


class LogFollower:
    """Writes what a job has printed since the last look."""

    def __init__(self, read: Callable[[], str], write: Callable[[str], object]) -> None:
        self._read = read
        self._write = write
        self._seen = ""

    def advance(self) -> None:
        """Look, and write what is new."""
        now = self._read()
        if now != self._seen:
            self._write(unseen(self._seen, now))
            self._seen = now

    def try_advance(self) -> None:
        """Do the same where the output is not what matters: the job may not be known yet, or the supervisor gone."""
        with contextlib.suppress(UnknownJob, SupervisorLost):
            self.advance()


@contextmanager
def to_standard_error(fd: int = 2) -> Iterator[None]:
    """Let what is started inside have `fd` for its standard output and error."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    try:
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


@contextmanager
def passed_on(console: Console) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Yield what makes a pool that is started inside it print on this console, above whatever bar is drawn there."""
    if not console.is_terminal:
        yield to_standard_error
        return
    read_end, write_end = os.pipe()
    reader = threading.Thread(target=_copy, args=(read_end, console), name="procjobs-output", daemon=True)

    @contextmanager
    def into_pipe() -> Iterator[None]:
        with to_standard_error(write_end):
            yield
        os.close(write_end)
        reader.start()

    yield into_pipe
    if reader.ident is not None:
        reader.join(_ENDS_WITHIN)


def _copy(fd: int, console: Console) -> None:
    with open(fd, errors="replace") as pipe:
        for line in pipe:
            console.print(line.rstrip("\n"), markup=False, highlight=False, soft_wrap=True)


def write_to(stream: TextIO) -> Callable[[str], object]:
    """Return what writes text to a stream at once."""

    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    return write
