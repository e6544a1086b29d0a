"""Errors on the command line: each becomes one line, a hint and an exit code."""

from __future__ import annotations

import json
from typing import Final

import click

from procjobs import errors
from procjobs.cli import screen

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_RUNNING: Final = 3
UNKNOWN_JOB: Final = 4
NO_SUPERVISOR: Final = 5
INTERRUPTED: Final = 130

MEANINGS: Final = {
    OK: "done, or the answer is yes",
    FAILED: "the job failed, or the answer is no",
    USAGE: "the command line is wrong",
    NOT_RUNNING: "the pool is not running",
    UNKNOWN_JOB: "no such job is known, or no such schedule",
    NO_SUPERVISOR: "the supervisor could not be started, does not answer or refused",
    INTERRUPTED: "Ctrl-C",
}
"""The meaning of each exit code; the help shows this."""


class Problem(click.ClickException):
    """An error that a command shows instead of an answer."""

    def __init__(self, message: str, hint: str = "", code: int = FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


_HINTS: Final[tuple[tuple[type[Exception], int, str], ...]] = (
    (errors.PoolNotRunning, NOT_RUNNING, "`procjobs status` lists running pools; `procjobs start NAME` starts one"),
    (errors.UnknownJob, UNKNOWN_JOB, "`procjobs jobs` lists the known jobs"),
    (errors.UnknownSchedule, UNKNOWN_JOB, "`procjobs schedules` lists the schedules of all running pools"),
    (errors.ConfigurationError, USAGE, ""),
    (errors.SupervisorRefused, NO_SUPERVISOR, "`procjobs doctor` shows which release each supervisor runs"),
    (errors.SupervisorError, NO_SUPERVISOR, "`procjobs doctor` looks for the reason"),
    (errors.ProcjobsError, FAILED, ""),
)


def explain(error: Exception) -> Problem:
    """Return an error of procjobs or of the parser as a Problem; raise any other error again."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx is not None else "procjobs"
        return Problem(error.format_message(), f"see `{path} --help`", USAGE)
    if isinstance(error, click.ClickException):
        return Problem(error.format_message())
    for kind, code, hint in _HINTS:
        if isinstance(error, kind):
            return Problem(str(error), hint, code)
    raise error


def show(problem: Problem, *, as_json: bool) -> None:
    """Write a problem to standard error: a line and a hint, or a JSON document."""
    message = problem.format_message()
    if as_json:
        text = json.dumps({"error": message, "hint": problem.hint or None})
    else:
        text = f"procjobs: {message}" + (f"\n  hint: {problem.hint}" if problem.hint else "")
    screen.remark(text)
