"""`start` and `serve`: pools that stay until they are stopped."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, Final

import click

from procjobs.cli import parameters, screen
from procjobs.cli.problems import FAILED, OK, Problem
from procjobs.cli.text import first_line
from procjobs.client import launcher, takeover
from procjobs.client.code import describe_code
from procjobs.client.pool import Pool
from procjobs.client.running_pool import RunningPool, find_pool
from procjobs.client.scheduling import pack_of_file
from procjobs.clock import monotonic, sleep
from procjobs.errors import PoolDegraded, SupervisorRefused
from procjobs.host import process, rundir
from procjobs.host.notify import notify_manager
from procjobs.settings.plan import given_settings, make_plan
from procjobs.shared.config import check_pool_name
from procjobs.shared.records import PoolStats

_FOR_EVER: Final = 100 * 366 * 86_400.0
_EXTEND_USEC: Final = 60_000_000
"""How much longer the service manager is to wait for the start, each time that it is told. It is told every 5 seconds."""
_LOAD_TIMEOUT: Final = 150.0  # more than the default start_timeout, after which the pool reports a problem


def use_working_directory() -> None:
    """Let modules in the current directory be found, as `python -m` does."""
    cwd = os.getcwd()
    if cwd not in sys.path and "" not in sys.path:
        sys.path.insert(0, cwd)


@click.command(short_help="Start a pool in the background.")
@parameters.name_argument
@parameters.pool_options
@click.option(
    "--linger",
    type=parameters.parse_seconds,
    metavar="TIME",
    help="End the pool when unused for this time; default: never.",
)
@parameters.common
def start(name: str, directory: str | None, as_json: bool, **options: Any) -> int:
    """Start the pool NAME in the background, where it stays until it is stopped, and wait for its first worker.

    Exit code 1 if the pool is running already, or cannot run jobs because a preload fails. Modules for --preload are
    found in the current directory too.
    """
    use_working_directory()
    _check_not_running(check_pool_name(name), directory)
    warnings.filterwarnings("ignore", ".*cannot run jobs at the moment", PoolDegraded)  # told below, with what to do
    pool = Pool(name, directory=directory, **{"linger": _FOR_EVER, "start": True, **parameters.given(options)})
    stats = _wait_for_first_worker(pool)
    pool.shutdown(wait=False)
    if stats.problem:
        hint = f"solve the problem and `procjobs reload {name}`, or `procjobs stop {name}`"
        raise Problem(f"pool {name!r} is running and cannot run jobs: {first_line(stats.problem)}", hint, FAILED)
    if as_json:
        screen.write_json({"pool": name, "supervisor_pid": stats.supervisor_pid})
    else:
        screen.write(f"pool {name} is running, supervisor {stats.supervisor_pid}")
    return OK


def _wait_for_first_worker(pool: Pool) -> PoolStats:
    """Return the stats of the pool when its code is loaded and it can run jobs, or when loading has failed."""
    deadline = monotonic() + _LOAD_TIMEOUT
    while True:
        stats = pool.stats()
        if stats.problem or stats.idle or stats.busy or monotonic() > deadline:
            return stats
        sleep(0.005)


def _check_not_running(name: str, directory: str | None) -> None:
    found = find_pool(name, directory)
    if found is not None and rundir.is_held(found.lock):
        with RunningPool(found) as pool:
            pid = pool.stats().supervisor_pid
        hint = f"`procjobs status {name}`, `procjobs resize {name} N`, `procjobs stop {name}`"
        raise Problem(f"pool {name!r} is running already, supervisor {pid}", hint, FAILED)


@click.command(short_help="Run a pool in the foreground, for systemd and containers.")
@parameters.name_argument
@parameters.pool_options
@parameters.common
def serve(name: str, directory: str | None, as_json: bool, **options: Any) -> int:
    """Run the pool NAME in the foreground, until it is stopped; its log goes to standard error.

    If clients have started the pool already, it is taken over: its running jobs end there, the waiting ones run here.

    \b
    SIGTERM, SIGINT  refuse new jobs; running jobs have the grace period to end
    a second signal  end everything at once
    SIGHUP           load the code again; running jobs finish on the old code

    The pool notifies the service manager when it is ready (sd_notify; Type=notify). The exit code is 0 if the pool was
    stopped or drained, and not 0 if it failed.
    """
    del as_json  # this command has no answer, only errors
    process.check_platform()
    use_working_directory()
    plan = make_plan(check_pool_name(name), {**given_settings(parameters.given(options)), "linger": _FOR_EVER})
    place = rundir.RunDir(rundir.find_base(directory), name)
    if (found := find_pool(name, directory)) is not None and found != place:
        _check_not_running(name, directory)
    rundir.check_socket_path(place)
    settings = plan.for_supervisor()
    launcher.check_startable(settings)
    wishes = plan.client
    code = describe_code(
        wishes.preload, None, (), wishes.version, environment=wishes.environment, wrappers=wishes.wrappers,
        schedules=plan.schedules_digest,
    )  # fmt: skip
    schedules = pack_of_file(plan)
    try:
        lock = takeover.take_lock(place, _tell_waiting(name))
    except SupervisorRefused as error:
        hint = f"`procjobs status {name}`, `procjobs resize {name} N`, `procjobs stop {name}`"
        raise Problem(str(error), hint, FAILED) from None
    launcher.become_supervisor(place, settings, lock, code.key, {**code.with_files()[0], "schedules": schedules})



def _tell_waiting(name: str) -> takeover.OnWaiting:
    """Return what tells the operator and the service manager for how many jobs of another supervisor this one waits."""
    told: list[tuple[int, int]] = []

    def tell(pid: int, running: int) -> None:
        text = f"pool {name!r} is taken over from process {pid}: it waits for {running} running job{'s' * (running != 1)}"
        if running and told[-1:] != [(pid, running)]:
            told.append((pid, running))
            screen.remark(f"procjobs: {text}")
        notify_manager(os.environ.get("NOTIFY_SOCKET", ""), f"STATUS={text}\nEXTEND_TIMEOUT_USEC={_EXTEND_USEC}")

    return tell

