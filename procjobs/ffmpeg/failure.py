"""The error of an ffmpeg that has failed."""

from __future__ import annotations

from typing import Any

from procjobs.errors import ProcjobsError


class FfmpegError(ProcjobsError, RuntimeError):
    """ffmpeg has failed, or could not be started.

    `exit_status` is its exit status, negative the number of the signal that has killed it; None if it was not started.
    `last_lines` is the end of its standard error, `command` the command line: both without the passwords of URLs and of
    options such as `-headers`.
    """

    def __init__(self, message: str, *, exit_status: int | None = None, last_lines: str = "", command: str = "") -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.last_lines = last_lines
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the attributes on the way from the worker."""
        return type(self), (str(self),), self.__dict__
