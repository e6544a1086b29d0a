"""`watch` and `logs`: follow one job while it runs, or look at it after its end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from procjobs.cli import bars, calls, finding, output, parameters, screen
from procjobs.cli.problems import FAILED, NOT_RUNNING, OK, Problem
from procjobs.clock import sleep
from procjobs.errors import SupervisorError, UnknownJob

if TYPE_CHECKING:
    from procjobs.cli.finding import Found
    from procjobs.shared.records import JobStatus

_INTERVAL: Final = 0.1


@click.command(short_help="Follow a job to its end; print its result.")
@parameters.job_argument
@parameters.raw_option
@parameters.pool_option
@parameters.common
def watch(job: str, is_raw: bool, pool: str | None, directory: str | None, as_json: bool) -> int:
    """Follow JOB to its end: with a bar on a terminal, with a line for each change in a pipe. Then print its result.

    Exit code 1 if the job failed. Ctrl-C ends this command only, not the job.
    """
    with finding.open_job(job, pool, directory) as found:
        return watch_to_end(found, as_json=as_json, is_raw=is_raw)


def watch_to_end(found: Found, *, as_json: bool, is_raw: bool) -> int:
    """Follow a job to its end, and show its result; return the exit code."""
    console = screen.standard_error()
    if as_json or not console.is_terminal:
        status = _follow(found, bars.StatusLines(found.pool.name, as_json=as_json))
    else:
        with bars.progress_bars(console) as follow:
            status = _follow(found, follow)
    if as_json:
        return OK if status.state == "succeeded" else FAILED
    try:
        handle = found.pool.job(status.id)
        handle.exception() if status.state == "succeeded" else None
    except (SupervisorError, UnknownJob):  # the result was evicted, or the pool has ended: only the table has the status
        screen.remark(f"job {status.id} {text_of(status)}; its result is no longer kept")
        return OK if status.state == "succeeded" else FAILED
    return calls.show_outcome(handle, status, found.pool.name, as_json=False, is_raw=is_raw)


def text_of(status: JobStatus) -> str:
    """Return the end of a job in a few words."""
    return f"{status.state}: {status.error}" if status.error else status.state


def _follow(found: Found, follow: bars.Follower) -> JobStatus:
    """Return the final status of a job; raise Problem if the supervisor is killed before the job ends."""
    pool, status = found
    while True:
        status = pool.status(status.id)
        follow(status)
        if status.done:
            return status
        if pool.supervisor_state() == "gone" and not pool.status(status.id).done:
            message = f"job {status.id} is lost: the supervisor of pool {pool.name!r} has gone"
            raise Problem(message, f"it was {status.state}; `procjobs status {pool.name}`", NOT_RUNNING)
        sleep(_INTERVAL)


@click.command(short_help="Print the output of a job.")
@parameters.job_argument
@click.option("--follow", "-f", is_flag=True, help="Continue until the job ends.")
@parameters.raw_option
@parameters.pool_option
@parameters.common
def logs(job: str, follow: bool, is_raw: bool, pool: str | None, directory: str | None, as_json: bool) -> int:
    """Print the output of JOB and of all processes that it started: the last 16 KiB, while it runs or after.

    With --follow continue until it ends.
    """
    with finding.open_job(job, pool, directory) as found:
        job_id = found.status.id
        if as_json and not follow:
            screen.write_json({"id": job_id, "pool": found.pool.name, "text": found.pool.logs(job_id)})
            return OK
        write = _write_json_line if as_json else screen.writer(sys.stdout, is_raw=is_raw)
        follower = output.LogFollower(lambda: found.pool.logs(job_id), write)
        follower.advance()
        while follow and not found.pool.status(job_id).done:
            sleep(_INTERVAL)
            follower.advance()
        follower.advance()
    return OK


def _write_json_line(text: str) -> None:
    screen.write_json({"text": text}, is_line=True)
