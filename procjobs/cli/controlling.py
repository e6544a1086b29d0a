"""`stop`, `drain`, `pause`, `resume`, `resize`, `reload`, `cancel`: commands to a running pool."""

from __future__ import annotations

from typing import Any

import click

from procjobs.cli import finding, parameters, screen, text
from procjobs.cli.problems import FAILED, OK, UNKNOWN_JOB, Problem, show
from procjobs.client import takeover
from procjobs.client.running_pool import find_pool
from procjobs.errors import PoolNotRunning, ReloadFailed, SupervisorError, SupervisorLost
from procjobs.shared.config import Workers


def _answer(line: str, document: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        screen.write_json(document)
    else:
        screen.write(line)
    return OK


@click.command(short_help="End a pool for everybody.")
@parameters.name_argument
@click.option("--now", is_flag=True, help="Kill running jobs at once, without a grace period.")
@parameters.common
def stop(name: str, now: bool, directory: str | None, as_json: bool) -> int:
    """End the pool NAME for everybody, and wait for its end.

    Waiting jobs fail with PoolClosed; running ones are interrupted and, after the grace period, killed. `drain` lets them
    finish first.
    """
    try:
        with finding.open_pool(name, directory) as pool:
            pool.stop(at_once=now)
            is_running, log = pool.is_running(), pool.log
    except SupervisorError as error:
        place = find_pool(name, directory)
        if isinstance(error, PoolNotRunning | SupervisorLost) or place is None:
            raise
        # It is of another release, or has a table of one: every release understands this.
        is_running, log = not takeover.stop(place), place.log
    if is_running:
        raise Problem(f"pool {name!r} has not ended in time", f"see {log}")
    return _answer(f"pool {name} has ended", {"pool": name, "stopped": True}, as_json=as_json)


@click.command(short_help="Refuse new jobs; end the pool after its last job.")
@parameters.name_argument
@click.option("--wait/--no-wait", help="Return when the pool has ended.")
@click.option(
    "--timeout", type=parameters.parse_seconds, metavar="TIME", help="With --wait: exit with 1 after this time."
)
@click.option("--hand-over", is_flag=True, help="Keep waiting and new jobs for the pool's next start.")
@parameters.common
def drain(
    name: str, wait: bool, timeout: float | None, hand_over: bool, directory: str | None, as_json: bool
) -> int:
    """Let the pool NAME refuse new jobs, and end when all its jobs are done, waiting jobs too.

    With --hand-over, it ends when the running jobs are done. Waiting and new jobs are kept, and run when the pool is started
    again; clients notice nothing but the pause.
    """
    with finding.open_pool(name, directory) as pool:
        supervisor_pid = pool.stats().supervisor_pid
        pool.drain(hand_over=hand_over)
        pool.disconnect()
        has_ended = wait and pool.wait_for_end(timeout)
        if wait and not has_ended:
            stats = pool.stats()
            left = stats.busy + stats.queued + stats.scheduled
            are_left = f"{text.count(left, 'job')} {'is' if left == 1 else 'are'} left"
            raise Problem(f"pool {name!r} has not ended within {timeout:g} s: {are_left}", "it is still draining")
    document = {"pool": name, "draining": not has_ended, "ended": has_ended, "supervisor_pid": supervisor_pid}
    plan = "ends after its running jobs" if hand_over else "refuses new jobs and ends after its last job"
    line = f"pool {name} has ended" if has_ended else f"pool {name} {plan}"
    return _answer(line, document, as_json=as_json)


@click.command(short_help="Start no more jobs, or make none of a schedule; running jobs continue.")
@parameters.name_argument
@parameters.optional_schedule_argument
@parameters.common
def pause(name: str, schedule: str | None, directory: str | None, as_json: bool) -> int:
    """Let the pool NAME start no more jobs, for everybody. New jobs still queue up, and running jobs continue.

    With SCHEDULE, no jobs of that schedule are made until `resume`; those that it would have made are not made up for.
    """
    return _switch(name, schedule, directory, is_paused=True, as_json=as_json)


@click.command(short_help="Start jobs again after a pause, or make those of a schedule.")
@parameters.name_argument
@parameters.optional_schedule_argument
@parameters.common
def resume(name: str, schedule: str | None, directory: str | None, as_json: bool) -> int:
    """Let the pool NAME start jobs again, or with SCHEDULE make jobs of that again, from its next time on."""
    return _switch(name, schedule, directory, is_paused=False, as_json=as_json)


def _switch(name: str, schedule: str | None, directory: str | None, *, is_paused: bool, as_json: bool) -> int:
    with finding.open_pool(name, directory) as pool:
        pool.pause(schedule) if is_paused else pool.resume(schedule)
    if schedule is not None:
        until = f"makes no jobs until `procjobs resume {name} {schedule}`"
        line = f"schedule {schedule} of pool {name} {until if is_paused else 'makes jobs'}"
        return _answer(line, {"pool": name, "schedule": schedule, "paused": is_paused}, as_json=as_json)
    paused = f"pool {name} starts no more jobs until `procjobs resume {name}`"
    line = paused if is_paused else f"pool {name} starts jobs"
    return _answer(line, {"pool": name, "paused": is_paused}, as_json=as_json)


@click.command(short_help="Change the number of workers.")
@parameters.name_argument
@click.argument("workers", type=parameters.parse_workers)
@parameters.common
def resize(name: str, workers: Workers, directory: str | None, as_json: bool) -> int:
    """Give the pool NAME another number of WORKERS: 4, or 2-8 (a range to scale in), or auto (as `procjobs host` shows).

    Additional workers start at once; surplus workers end after their current job.
    """
    with finding.open_pool(name, directory) as pool:
        pool.resize(workers)
    shown = f"{workers[0]} to {workers[1]}" if isinstance(workers, tuple) else str(workers)
    return _answer(f"pool {name} has {shown} workers", {"pool": name, "workers": workers}, as_json=as_json)


@click.command(short_help="Load the code again; running jobs finish on the old code.")
@parameters.name_argument
@parameters.common
def reload(name: str, directory: str | None, as_json: bool) -> int:
    """Load the code of the pool NAME again: new processes import it, running jobs finish on the old code.

    Exit code 1 if the code cannot be loaded: the pool then keeps its old code.
    """
    with finding.open_pool(name, directory) as pool:
        try:
            pool.reload()
        except ReloadFailed as error:
            raise Problem(str(error), f"pool {name!r} keeps its old code") from None
    return _answer(f"pool {name} has loaded its code again", {"pool": name, "reloaded": True}, as_json=as_json)


@click.command(short_help="Cancel jobs, waiting or running.")
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True, shell_complete=parameters.complete_jobs)
@parameters.pool_option
@parameters.common
def cancel(jobs: tuple[str, ...], pool: str | None, directory: str | None, as_json: bool) -> int:
    """Cancel the jobs JOB..., waiting or running, and end all processes that they started.

    Those that cannot be cancelled are told, and the others are cancelled all the same. Exit code 1 if one of the jobs had
    ended already, else 4 if one is not known.
    """
    documents, codes = [], [OK]
    for word in jobs:
        try:
            document = _cancel(word, pool, directory)
        except Problem as problem:
            if len(jobs) == 1 or problem.code != UNKNOWN_JOB:  # without the pool, none of the others is found either
                raise
            document = {"id": word, "pool": None, "cancelled": False, "state": None, "error": problem.format_message()}
            codes.append(problem.code)
            if not as_json:
                show(problem, as_json=False)
        else:
            codes.append(OK if document["cancelled"] else FAILED)
            if not as_json:
                ended = f"had ended already: {document['state']}"
                screen.write(f"job {document['id']} {'is cancelled' if document['cancelled'] else ended}")
        documents.append(document)
    if as_json:
        screen.write_json(documents)
    return FAILED if FAILED in codes else max(codes)


def _cancel(word: str, pool: str | None, directory: str | None) -> dict[str, Any]:
    with finding.open_job(word, pool, directory) as (found, status):
        is_cancelled = found.cancel(status.id)
        state = found.status(status.id).state
    return {"id": status.id, "pool": found.name, "cancelled": is_cancelled, "state": state}
