"""`schedules` and `run-now`: what a pool runs at certain times. These commands ask the supervisor, and start nothing."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from procjobs.cli import finding, following, parameters, screen, text
from procjobs.cli.finding import Found
from procjobs.cli.problems import OK
from procjobs.client.running_pool import RunningPool
from procjobs.errors import ProcjobsError

if TYPE_CHECKING:
    from procjobs.shared.schedule_records import ScheduleInfo

_COLUMNS = ("NAME", "STATE", "NEXT", "LAST", "RESULT", ">LATE", ">SKIPPED", ">MISSED", "<CALL", "<WHEN")


@click.command(short_help="List what pools run at certain times: the next and the last runs.")
@parameters.optional_name_argument
@click.option(
    "--next", "upcoming", type=click.IntRange(1, 100), default=1, show_default=True, metavar="N", help="Show N future runs."
)
@parameters.common
def schedules(name: str | None, upcoming: int, directory: str | None, as_json: bool) -> int:
    """List the schedules of the pool NAME, or of all running pools of this user.

    Times are those of this host's zone. LATE is by how much the last run was made later than it should have been. SKIPPED
    counts the runs that were left out because the one before had not ended, MISSED those whose time passed while nobody
    could start them.
    """
    found: list[tuple[str, ScheduleInfo]] = []
    if name is not None:
        with finding.open_pool(name, directory) as pool:
            found = [(pool.name, schedule) for schedule in pool.schedules(upcoming=upcoming)]
    else:
        for place in finding.running_pools(directory):
            try:
                with RunningPool(place) as pool:
                    found += [(pool.name, schedule) for schedule in pool.schedules(upcoming=upcoming)]
            except ProcjobsError as error:
                screen.remark(f"procjobs: pool {place.name!r} cannot be asked: {error}")
    if as_json:
        screen.write_json([{"pool": pool_name, **schedule.as_dict()} for pool_name, schedule in found])
    elif found:
        _write_schedules(found, show_pool=name is None)
    else:
        screen.write("there are no schedules" if name is None else f"pool {name} has no schedules")
    return OK


def _write_schedules(found: list[tuple[str, ScheduleInfo]], *, show_pool: bool) -> None:
    rows: list[list[Any]] = []
    for pool_name, one in found:
        pool = [pool_name] if show_pool else []
        rows.append([
            *pool, one.name, _state(one), _local(one.next_at[0]) if one.next_at else "-", _local(one.last_at),
            screen.styled(one.last_state or ""), text.duration(one.last_late), one.skipped, one.missed,
            text.one_line(one.call), text.one_line(one.text),
        ])  # fmt: skip
        rows += [["", *([""] * len(pool)), "", _local(moment)] for moment in one.next_at[1:]]
    pool_column = ["POOL"] if show_pool else []
    screen.write_rows([*pool_column, *_COLUMNS], rows)


def _state(schedule: ScheduleInfo) -> str:
    """Return whether jobs are made of a schedule, and whether code or settings declare it."""
    made = "declared" if schedule.is_declared else "made"
    running = f", {len(schedule.running)} running" if schedule.running else ""
    return f"paused, {made}{running}" if schedule.is_paused else f"{made}{running}"


def _local(moment: float | None) -> str:
    """Return a time of this host's zone, with the zone: "2027-01-01 02:30:00 CET"."""
    return "" if moment is None else datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


@click.command(short_help="Make a job of a schedule now, beside its times.")
@parameters.name_argument
@parameters.schedule_argument
@click.option("--wait", is_flag=True, help="Follow the job to its end, as `watch` does, and print its result.")
@parameters.raw_option
@parameters.common
def run_now(name: str, schedule: str, wait: bool, is_raw: bool, directory: str | None, as_json: bool) -> int:
    """Make a job of the SCHEDULE of the pool NAME now, whatever its times and its overlap say, and print the job's id.

    The times of the schedule stay as they are. With --wait, exit code 1 if the job failed.
    """
    with finding.open_pool(name, directory) as pool:
        job = pool.run_now(schedule)
        if not wait:
            document = {"id": job.id, "pool": pool.name, "schedule": schedule}
            screen.write_json(document) if as_json else screen.write(job.id)
            return OK
        screen.remark(f"job {job.id}")
        return following.watch_to_end(Found(pool, pool.status(job.id)), as_json=as_json, is_raw=is_raw)
