"""Running ffmpeg, in a job or outside of one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import procjobs
from procjobs.ffmpeg.arguments import Plan, Shown, as_text, expected_length, find, read_plan
from procjobs.ffmpeg.outcome import is_refused, raise_failure
from procjobs.ffmpeg.program import GRACE_PERIOD, Block, Files, Program
from procjobs.ffmpeg.reports import Report, read_duration, read_report

_OWN: Final = ("-hide_banner", "-nostdin", "-nostats", "-stats_period", "0.25")


class Finished(NamedTuple):
    """A run of ffmpeg that has ended.

    `exit_status` is 0, or with `check=False` what it was (negative: the signal that has killed it); `report` the last one,
    None if there was none; `last_lines` the end of its standard error, `command` its command line, both without passwords.
    """

    exit_status: int
    report: Report | None
    last_lines: str
    command: str


def run(
    args: Sequence[str | os.PathLike[str]],
    *,
    progress: bool | Callable[[Report], object] = True,
    duration: float | None = None,
    message: str = "encoding",
    check: bool = True,
    executable: str | os.PathLike[str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    stdin: Files = None,
    stdout: Files = None,
    grace_period: float = GRACE_PERIOD,
) -> Finished:
    """Run ffmpeg with these arguments, wait for its end, and report its progress as that of the job.

    `args` are the arguments without the program's name. A `Path` among them is always a file, whatever its name is; a text
    may be anything that ffmpeg understands. ffmpeg asks nothing: without `-y` it fails where the output exists.

    `progress=True` calls `procjobs.progress(seconds, total, message)` some four times a second, with the seconds of the
    output that are written. The total comes from the inputs, and from `-t`, `-to` and `-ss`; `duration`, in seconds, says it
    where filters change it (`setpts`, `-stream_loop`). A function is called with each `Report` instead, in this thread;
    an exception of it stops ffmpeg. Outside a job nothing is reported.

    `stdin` and `stdout` are open files for `pipe:0` and `pipe:1`; without them it reads and writes nothing there. Standard
    error goes to that of this process, in a job to the job's log: the first 400 lines. `cwd` is the folder to run in.

    When the job is interrupted (or anything else is raised here), ffmpeg gets SIGTERM, on which it finishes the file it
    writes, and `grace_period` seconds later SIGKILL; it is gone, and reaped, when the exception goes on. In another thread
    of a job JobCancelled is raised.

    Raise FfmpegError if it exits with anything but 0, unless `check` is False, and if it cannot be started.
    """
    program = find(executable)
    arguments = [as_text(argument) for argument in args]
    folder = None if cwd is None else os.fspath(cwd)
    shown = Shown(arguments)
    running = Program(program, [*_OWN, *arguments], stdin=stdin, stdout=stdout, cwd=folder, grace_period=grace_period)
    reader = _Reader(read_plan(arguments), duration, _reporter(progress, message), shown)
    end = running.run_to_end(reader.take_line, reader.take_block)
    if end.left_out:
        print(f"... {end.left_out} more lines of ffmpeg are left out", file=sys.stderr)  # noqa: T201 - the job's log
    command = [program, *arguments]
    if end.error is not None or (check and (end.exit_status or is_refused(end))):
        raise_failure(end, command, folder)
    lines = "\n".join(shown.text(line) for line in end.last_lines)
    return Finished(end.exit_status, reader.report, lines, shown.command(command))


class _Reader:
    """Reads what ffmpeg says while it runs."""

    def __init__(self, plan: Plan, total: float | None, tell: Callable[[Report], object], shown: Shown) -> None:
        self._plan = plan
        self.report: Report | None = None
        self._durations: list[float | None] = []
        self._given = total
        self._tell = tell
        self._shown = shown

    def take_line(self, line: str) -> None:
        """Log a line, and learn from it how long an input is."""
        print(self._shown.text(line), file=sys.stderr, flush=True)  # noqa: T201 - the job's log
        if line.lstrip().startswith("Duration: ") and len(self._durations) < len(self._plan.inputs):
            self._durations.append(read_duration(line))

    def take_block(self, block: Block) -> None:
        """Report a progress. An output that has ended has the length that it was to have, whatever was expected."""
        total = self._given if self._given is not None else expected_length(self._plan, self._durations)
        report = read_report(block, total)
        if block.get("progress") == "end" and report.total is not None:
            report = report._replace(seconds=report.total)
        self.report = report
        self._tell(report)


def _reporter(progress: bool | Callable[[Report], object], message: str) -> Callable[[Report], object]:
    if callable(progress):
        return progress
    if not progress:
        return lambda _: None
    return lambda report: procjobs.progress(report.seconds, report.total, message)
