"""Passes the output of jobs to standard error: from descriptors of a private pool, or from the tail that a pool keeps."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final

from procjobs.cli import screen
from procjobs.errors import SupervisorLost, UnknownJob

if TYPE_CHECKING:
    from rich.console import Console

_LAST_OUTPUT_TIMEOUT: Final = 1.0
"""How long the last output may take to arrive. A process that outlives the job may hold the pipe open for ever."""
_MARK_CHARACTERS: Final = 512


def unseen(before: str, now: str) -> str:
    """Return the part of `now` that is new since `before`, where both are the kept end of one growing text.

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
    """Writes the output that a job has added since the last call."""

    def __init__(self, read: Callable[[], str], write: Callable[[str], object]) -> None:
        self._read = read
        self._write = write
        self._seen = ""

    def advance(self) -> None:
        """Read the output, and write its new part."""
        now = self._read()
        if now != self._seen:
            self._write(unseen(self._seen, now))
            self._seen = now

    def try_advance(self) -> None:
        """Do the same, but without an error if the job is not known yet or the supervisor has gone."""
        with contextlib.suppress(UnknownJob, SupervisorLost):
            self.advance()


@contextmanager
def to_standard_error(fd: int = 2) -> Iterator[None]:
    """Let processes that are started in this block have `fd` as standard output and standard error."""
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
    """Yield a context manager: the output of a pool that is started in it appears on this console, above its bars."""
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
        reader.join(_LAST_OUTPUT_TIMEOUT)


def _copy(fd: int, console: Console) -> None:
    with open(fd, errors="replace") as pipe:
        for line in pipe:
            screen.pass_on(console, line.rstrip("\n") + "\n")
