"""What the end of an ffmpeg means: the error of one that has failed."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Final, NoReturn

from procjobs.ffmpeg.arguments import Shown, describe_missing, read_plan
from procjobs.ffmpeg.failure import FfmpegError
from procjobs.ffmpeg.program import Ended, raise_if_stopping

_SHOWN_LINES: Final = 6


def raise_failure(end: Ended, command: Sequence[str], cwd: str | None = None) -> NoReturn:
    """Raise the error of a run that has failed: FfmpegError, or JobCancelled if it was stopped with its job."""
    program, *arguments = command
    shown = Shown(arguments)
    line = shown.command(command)
    if end.error is not None:
        text = f"{program} could not be started: {end.error}\nThe command was: {line}"
        raise FfmpegError(text, command=line) from end.error
    raise_if_stopping()  # the worker ends the programs of a job that it cannot interrupt
    status = end.exit_status
    what = f"exited with status {status}" if status >= 0 else f"was killed by {_signal_name(-status)}"
    last = [shown.text(text) for text in end.last_lines]
    missing = "the output exists; -y replaces it" if is_refused(end) else describe_missing(read_plan(arguments), cwd)
    headline = shown.text(missing) if missing else last[-1] if last else "it has said nothing"
    text = "\n".join([f"ffmpeg {what}: {headline}", *last[-_SHOWN_LINES:-1], f"The command was: {line}"])
    raise FfmpegError(text, exit_status=status, last_lines="\n".join(last), command=line)


def is_refused(end: Ended) -> bool:
    """Return whether ffmpeg has done nothing because its output exists. The exit status of that is 0 in some releases."""
    return any(line.endswith("already exists. Exiting.") for line in end.last_lines)


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({number})"
    except ValueError:
        return f"signal {number}"
