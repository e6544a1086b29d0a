"""`run` and `submit`: run a function as a job, and wait for it or not."""

from __future__ import annotations

import concurrent.futures
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from procjobs.cli import bars, calls, finding, output, parameters, screen, text
from procjobs.cli.problems import INTERRUPTED, OK
from procjobs.cli.starting import use_working_directory
from procjobs.client.pool import Pool
from procjobs.client.running_pool import find_pool
from procjobs.clock import monotonic, sleep
from procjobs.errors import ProcjobsError, UnknownJob
from procjobs.host import rundir
from procjobs.settings.plan import make_plan
from procjobs.shared.states import Reason

if TYPE_CHECKING:
    from procjobs.client.job import Job
    from procjobs.shared.records import JobStatus

_INTERVAL: Final = 0.1
_SHORT_LIFE: Final = 60.0
"""A pool that ends sooner than this after its last job may be gone before somebody types the next command."""
_CANCEL_TIMEOUT: Final = 1.0
"""How long to wait for the job's record to show the cancel; a job that cleans up may take longer to end."""


class _Call:
    """A function with its arguments and the options of its job."""

    def __init__(
        self, function: str, arguments: tuple[str, ...], keywords: tuple[tuple[str, Any], ...], **options: Any
    ) -> None:
        use_working_directory()
        self._function = calls.load_function(function)
        self._arguments = [parameters.parse_value(word) for word in arguments]
        self._keywords = dict(keywords)
        self._options = parameters.given(options)

    def submit_to(self, pool: Pool) -> Job[Any]:
        """Submit the call to a pool."""
        return pool.options(**self._options).submit(self._function, *self._arguments, **self._keywords)


def _named_pool(name: str, directory: str | None) -> Pool:
    """Return the pool with this name: the running one, or else a new one in the default directory."""
    found = find_pool(name, directory)
    return Pool(name, directory=found.base if found is not None else directory)


@click.command(short_help="Run a function as a job and print its result.")
@parameters.call
@parameters.target_pool("Run the job in this pool, not in a pool of its own; start the pool if necessary.")
@parameters.job_options
@parameters.raw_option
@parameters.common
def run(pool: str | None, is_raw: bool, directory: str | None, as_json: bool, **options: Any) -> int:
    """Run MODULE:FUNCTION as a job, show its progress, and print its result.

    The result goes to standard output, the output of the job to standard error. Exit code 1 if the job fails. Ctrl-C
    cancels the job: it can clean up and, after the grace period, is killed. A second Ctrl-C kills it at once.
    """
    call = _Call(**options)
    console = screen.standard_error(is_raw=is_raw)
    with bars.progress_bars(console) as follow, output.passed_on(console) as redirected:
        with redirected() if pool is None else contextlib.nullcontext():
            target = Pool(workers=1, directory=directory) if pool is None else _named_pool(pool, directory)
        job: Job[Any] | None = None
        try:
            job = call.submit_to(target)
            status = _wait(target, job, follow, write=partial(screen.pass_on, console))
            target.shutdown(wait=True)  # after this all output of a private pool has been passed on
        except KeyboardInterrupt:
            _cancel(target, job, follow)
            return INTERRUPTED
    return calls.show_outcome(job, status, pool or "private", as_json=as_json, is_raw=is_raw)


def _wait(pool: Pool, job: Job[Any], follow: bars.Follower, *, write: Any) -> JobStatus:
    """Return the final status of a job; show its progress and output until then."""
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
    """Cancel a job and wait for the end of its processes. A second Ctrl-C ends this process, and with it a private pool."""
    if job is None:
        return
    screen.remark(f"procjobs: job {job.id} is cancelled; Ctrl-C again kills it at once")
    job.cancel()
    deadline = monotonic() + _CANCEL_TIMEOUT
    while not (status := job.status()).done and monotonic() < deadline:
        sleep(0.01)
    follow(status)
    pool.shutdown(wait=True)


run.help = (run.help or "") + parameters.ABOUT_ARGUMENTS


@click.command(short_help="Submit a function to a pool and print the job's id.")
@parameters.call
@parameters.target_pool("The pool; it is started if necessary.", required=True)
@parameters.job_options
@parameters.common
def submit(pool: str, directory: str | None, as_json: bool, **options: Any) -> int:
    """Submit MODULE:FUNCTION to a pool and print the job's id as soon as the pool has accepted it.

    `procjobs watch`, `status`, `logs` and `cancel` take the id. A pool that is started for this stays as long after its last
    job as it keeps results (result_ttl), unless a settings file or the environment says how long it lingers.
    """
    call = _Call(**options)
    target = _lasting_pool(pool, directory)
    job = call.submit_to(target)
    job.wait_accepted()
    if job.done() and _was_refused(job) and (error := job.exception()) is not None:
        raise error
    if as_json:
        screen.write_json({"id": job.id, "pool": pool, "name": job.name})
    else:
        screen.write(job.id)
    target.shutdown(wait=False)
    _tell_of_short_life(pool, directory)
    return OK


def _was_refused(job: Job[Any]) -> bool:
    """Return whether the pool has not taken a job that has ended: its queue is full, or it is draining."""
    try:
        return job.status().reason == Reason.REJECTED.text
    except UnknownJob:
        return True


def _lasting_pool(name: str, directory: str | None) -> Pool:
    """Return the pool with this name; one that is started here does not end before its results are forgotten."""
    found = find_pool(name, directory)
    plan = make_plan(name, {})
    if (found is not None and rundir.is_held(found.lock)) or "linger" in plan.origins:
        return _named_pool(name, directory)
    place = found.base if found is not None else directory
    return Pool(name, directory=place, linger=max(plan.values["result_ttl"], plan.values["linger"]))


def _tell_of_short_life(name: str, directory: str | None) -> None:
    """Remark that the pool, which somebody else has started, forgets the job soon after its end."""
    with contextlib.suppress(ProcjobsError), finding.open_pool(name, directory) as pool:
        settings = pool.welcome()["settings"]
        linger, kept = settings["linger"], settings["result_ttl"]
        if settings.get("store") is None and linger < min(kept, _SHORT_LIFE):
            screen.remark(
                f"procjobs: pool {name!r} ends {text.duration(linger)} after its last job and client, and knows no id then: "
                "`procjobs watch` the job, or give the pool a longer `linger` or a `store`"
            )


submit.help = (submit.help or "") + parameters.ABOUT_ARGUMENTS
