"""`run` and `submit`: a call from the command line."""

from __future__ import annotations

import concurrent.futures
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from procjobs.cli import bars, calls, output, parameters, screen
from procjobs.cli.problems import INTERRUPTED, OK
from procjobs.cli.starting import use_working_directory
from procjobs.client.pool import Pool
from procjobs.client.running_pool import find_pool
from procjobs.clock import monotonic, sleep

if TYPE_CHECKING:
    from procjobs.client.job import Job
    from procjobs.shared.records import JobStatus

_INTERVAL: Final = 0.1
_CANCELLED_WITHIN: Final = 1.0
"""How long the record may take to say so; what ignores SIGTERM may take longer to end."""


class _Call:
    """What is to be run, and how: with these options of a job."""

    def __init__(
        self, function: str, arguments: tuple[str, ...], keywords: tuple[tuple[str, Any], ...], **options: Any
    ) -> None:
        use_working_directory()
        self._function = calls.load_function(function)
        self._arguments = [parameters.parse_value(word) for word in arguments]
        self._keywords = dict(keywords)
        self._options = parameters.given(options)

    def submit_to(self, pool: Pool) -> Job[Any]:
        """Submit it to a pool."""
        return pool.options(**self._options).submit(self._function, *self._arguments, **self._keywords)


def _named_pool(name: str, directory: str | None) -> Pool:
    """Return a pool to submit to: where it is running, else where pools are by default."""
    found = find_pool(name, directory)
    return Pool(name, directory=found.base if found is not None else directory)


@click.command(short_help="Run a function as a job and print its result.")
@parameters.call
@parameters.target_pool("Run it in this pool, started if need be, and not in one of its own.")
@parameters.job_options
@parameters.common
def run(pool: str | None, directory: str | None, as_json: bool, **options: Any) -> int:
    """Run MODULE:FUNCTION as a job, show its progress, and print its result.

    Its result goes to standard output, what it prints to standard error. Exit code 1 if it fails. Ctrl-C cancels it: it
    gets SIGTERM and, after the grace period, SIGKILL; a second Ctrl-C kills it at once.
    """
    call = _Call(**options)
    console = screen.standard_error()
    with bars.progress_bars(console) as follow, output.passed_on(console) as redirected:
        with redirected() if pool is None else contextlib.nullcontext():
            target = Pool(workers=1, directory=directory) if pool is None else _named_pool(pool, directory)
        job: Job[Any] | None = None
        try:
            job = call.submit_to(target)
            status = _wait(target, job, follow, write=partial(console.print, end="", markup=False))
            target.shutdown(wait=True)  # of a private pool everything that its job has printed has been passed on then
        except KeyboardInterrupt:
            _cancel(target, job, follow)
            return INTERRUPTED
    return calls.show_outcome(job, status, pool or "private", as_json=as_json)


def _wait(pool: Pool, job: Job[Any], follow: bars.Follower, *, write: Any) -> JobStatus:
    """Return the final status of a job, and show until then what it does."""
    logs = None if pool.is_private else output.LogFollower(lambda: pool.logs(job.id), write)
    is_done = False
    while not is_done:
        is_done = bool(concurrent.futures.wait([job], timeout=_INTERVAL).done)
        if logs is not None:
            logs.try_advance()
        status = job.status()
        follow(status)
    return status


def _cancel(pool: Pool, job: Job[Any] | None, follow: bars.Follower) -> None:
    """Cancel a job and wait for the end of its processes; a second Ctrl-C ends this process, and with it what is its own."""
    if job is None:
        return
    screen.remark(f"procjobs: job {job.id} is cancelled; Ctrl-C again kills it at once")
    job.cancel()
    deadline = monotonic() + _CANCELLED_WITHIN
    while not (status := job.status()).done and monotonic() < deadline:
        sleep(0.01)
    follow(status)
    pool.shutdown(wait=True)


run.help = (run.help or "") + parameters.ABOUT_ARGUMENTS


@click.command(short_help="Hand a function to a pool and print the job's id.")
@parameters.call
@parameters.target_pool("The pool, started if need be.", required=True)
@parameters.job_options
@parameters.common
def submit(pool: str, directory: str | None, as_json: bool, **options: Any) -> int:
    """Hand MODULE:FUNCTION to a pool and print the job's id as soon as the pool has it.

    `procjobs watch`, `status`, `logs` and `cancel` take the id.
    """
    call = _Call(**options)
    target = _named_pool(pool, directory)
    job = call.submit_to(target)
    job.wait_accepted()
    if job.done() and (error := job.exception()) is not None:  # refused: the queue is full, or the pool is draining
        raise error
    if as_json:
        screen.write_json({"id": job.id, "pool": pool, "name": job.name})
    else:
        screen.write(job.id)
    target.shutdown(wait=False)
    return OK


submit.help = (submit.help or "") + parameters.ABOUT_ARGUMENTS
