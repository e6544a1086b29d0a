"""`sys.stdin`, `sys.stdout` and `sys.stderr` of a worker: after each job they are those that it began with."""

from __future__ import annotations

import contextlib
import io
import logging
import operator
import sys
from typing import Any, Final, NamedTuple, TextIO

_NAMES: Final = ("stdin", "stdout", "stderr")
_CLOSED: Final = operator.attrgetter("closed")


class _Stream(NamedTuple):
    """How a stream was set up: the descriptor that it is on, and what `reconfigure` takes."""

    fd: int
    mode: str
    encoding: str
    errors: str | None
    line_buffering: bool

    def open(self) -> TextIO:
        return open(  # type: ignore[return-value]
            self.fd, self.mode, 1 if self.line_buffering else -1, self.encoding, self.errors, closefd=False
        )


class Streams:
    """Puts the streams back, and makes those anew that a job has closed."""

    def __init__(self) -> None:
        self._streams: tuple[Any, Any, Any] = (sys.stdin, sys.stdout, sys.stderr)
        self._originals: tuple[Any, Any, Any] = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
        self._made: list[_Stream | None] = []
        for fd, stream in enumerate(self._streams):
            # An initializer may have put streams of its own here; these are put back, and not made anew.
            is_usual = isinstance(stream, io.TextIOWrapper) and _is_on(stream, fd)
            mode = "r" if fd == 0 else "w"
            self._made.append(
                _Stream(fd, mode, stream.encoding, stream.errors, stream.line_buffering) if is_usual else None
            )
        self._usual = [stream for stream, made in zip(self._streams, self._made, strict=True) if made is not None]

    def flush(self) -> None:
        """Write everything that the job has printed."""
        try:
            sys.stdout.flush()
            sys.stderr.flush()
            is_done = sys.stdout is self._streams[1] and sys.stderr is self._streams[2]
        except BaseException:  # noqa: BLE001 - the job has closed or replaced them, and these may do anything
            is_done = False
        if not is_done:
            for stream in (getattr(sys, "stdout", None), getattr(sys, "stderr", None), *self._streams[1:]):
                with contextlib.suppress(BaseException):
                    stream.flush()  # type: ignore[union-attr]

    def are_intact(self) -> bool:
        """Return whether they are the same and open."""
        try:
            return (sys.stdin, sys.stdout, sys.stderr) == self._streams and not any(map(_CLOSED, self._usual))
        except (AttributeError, ValueError):  # deleted; detached
            return False

    def are_set_up(self) -> bool:
        """Return whether they are set up as they were."""
        originals = sys.__stdin__, sys.__stdout__, sys.__stderr__
        return originals == self._originals and all(
            made is None or (stream.encoding, stream.errors, stream.line_buffering) == made[2:]
            for stream, made in zip(self._streams, self._made, strict=True)
        )

    def put_back(self) -> str:
        """Put them back; return what could not be, empty if all were."""
        lost = ""
        self._remove_replacements()
        for number, made in enumerate(self._made):
            old = self._streams[number]
            if made is not None and not _is_usable(old, made):
                self._replace(old, made.open())
            elif made is None and _is_closed(old):
                lost = f"sys.{_NAMES[number]}"
        sys.stdin, sys.stdout, sys.stderr = self._streams
        for name, original in zip(_NAMES, self._originals, strict=True):
            setattr(sys, f"__{name}__", original)
        return lost

    def _remove_replacements(self) -> None:
        """Put the streams where they were, and part a job's own from their buffers: with the last reference to one of these
        its buffer would be closed, in the middle of a later job perhaps.
        """
        buffers = [getattr(stream, "buffer", None) for stream in self._usual if not _is_closed(stream)]
        now = [getattr(sys, name, None) for name in (*_NAMES, *(f"__{name}__" for name in _NAMES))]
        sys.stdin, sys.stdout, sys.stderr = self._streams
        for stream in now:
            if isinstance(stream, io.TextIOWrapper) and stream not in self._usual:
                with contextlib.suppress(OSError, ValueError):
                    if any(stream.buffer is buffer for buffer in buffers):
                        stream.detach()

    def _replace(self, old: Any, new: TextIO) -> None:
        """Put a new stream where the old one was, also into the handlers of the logging module."""

        def swap(streams: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
            first, second, third = (new if stream is old else stream for stream in streams)
            return first, second, third

        self._streams, self._originals = swap(self._streams), swap(self._originals)
        self._usual = [new if stream is old else stream for stream in self._usual]
        for reference in list(logging._handlerList):  # type: ignore[attr-defined]  # noqa: SLF001 - the only list of all
            handler = reference() if callable(reference) else reference
            if isinstance(handler, logging.Handler) and vars(handler).get("stream") is old:
                vars(handler)["stream"] = new


def _is_on(stream: Any, fd: int) -> bool:
    try:
        return bool(stream.fileno() == fd)
    except (OSError, ValueError):
        return False


def _is_closed(stream: Any) -> bool:
    try:
        return bool(getattr(stream, "closed", False))
    except ValueError:  # it is detached
        return True


def _is_usable(stream: Any, made: _Stream) -> bool:
    """Return whether a stream is open and on its descriptor, after it was set up as before."""
    if _is_closed(stream) or not _is_on(stream, made.fd):
        return False
    now = stream.encoding, stream.errors, stream.line_buffering
    if now != made[2:]:
        try:
            if made.fd == 0:
                return False
            stream.reconfigure(encoding=made.encoding, errors=made.errors, line_buffering=made.line_buffering)
        except (OSError, ValueError):
            return False
    return True

