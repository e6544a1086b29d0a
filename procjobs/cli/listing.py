"""`status`, `jobs`, `queues`, `workers`: lists from shared memory. These commands ask no supervisor and start nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from procjobs.cli import finding, parameters, screen, text
from procjobs.cli.problems import OK
from procjobs.client.running_pool import RunningPool, find_pools
from procjobs.clock import wall
from procjobs.errors import ProcjobsError
from procjobs.shared.states import JobState

if TYPE_CHECKING:
    from procjobs.shared.records import JobStatus


_SHORT_ID: Final = 8
"""A narrow terminal shows only the end of an id. It is random, so it is enough to name a job."""
_POOL_COLUMNS: Final = ("NAME", "STATE", "BUSY", ">WAITING", ">DONE", ">FAILED", ">MEMORY", ">UPTIME")


@click.command(short_help="Show all pools, one pool, or one job.")
@click.argument("target", metavar="[NAME|JOB]", required=False, shell_complete=parameters.complete_both)
@parameters.pool_option
@parameters.common
def status(target: str | None, pool: str | None, directory: str | None, as_json: bool) -> int:
    """Show all pools of this user, the pool NAME, or the job JOB.

    The command reads shared memory only: it starts nothing and costs the supervisor nothing.
    """
    if target is None and pool is None:
        return _show_pools(directory, as_json=as_json)
    if target is None or (pool is None and not _is_job(target, directory)):
        with finding.open_pool(target or pool or "", directory) as found:
            _show_pool(found, as_json=as_json)
        return OK
    with finding.open_job(target, pool, directory) as (found, job):
        if as_json:
            screen.write_json(screen.job_document(job, found.name))
        else:
            _show_job(found, job)
    return OK


def _is_job(target: str, directory: str | None) -> bool:
    """Return whether a word means a job: it is part of a job's id, and no pool has this name."""
    if finding.looks_like_id(target):
        return True
    if any(pool.name == target for pool in find_pools(directory)):
        return False
    try:
        with finding.open_job(target, None, directory):
            return True
    except click.ClickException:
        return False


def _show_pools(directory: str | None, *, as_json: bool) -> int:
    documents: list[dict[str, Any]] = []
    rows: list[list[Any]] = []
    for place in find_pools(directory):
        try:
            with RunningPool(place) as pool:
                state, stats = _pool_state(pool), pool.stats()
        except ProcjobsError as error:
            documents.append({"pool": place.name, "state": "unreadable", "problem": str(error)})
            rows.append([place.name, "unreadable"])
            continue
        documents.append({**screen.stats_document(stats, place.name), "state": state})
        waiting = stats.queued + stats.scheduled
        busy = f"{stats.busy}/{stats.workers}"
        uptime = text.duration(stats.uptime)
        rows.append([place.name, state, busy, waiting, stats.finished, stats.failed, text.size(stats.rss), uptime])
    if as_json:
        screen.write_json(documents)
    elif not rows:
        screen.write(finding.describe_none(directory))
    else:
        screen.write_rows(_POOL_COLUMNS, rows)
    return OK


def _pool_state(pool: RunningPool) -> str:
    """Return the state of a pool in a word or two."""
    supervisor = pool.supervisor_state()
    if supervisor == "gone":
        return "killed"
    if supervisor == "stopped":
        return "not answering"
    stats = pool.stats()
    return "draining" if stats.draining else "degraded" if stats.problem else "paused" if stats.paused else "running"


def _show_pool(pool: RunningPool, *, as_json: bool) -> None:
    stats, state = pool.stats(), _pool_state(pool)
    running = pool.jobs("running", limit=10)
    if as_json:
        jobs = [screen.job_document(job, pool.name) for job in running]
        screen.write_json({**screen.stats_document(stats, pool.name), "state": state, "running": jobs})
        return
    screen.write(f"pool {pool.name}: {state}, up {text.duration(stats.uptime)}, supervisor {stats.supervisor_pid}")
    if stats.problem:
        screen.write(f"problem:  {text.first_line(stats.problem)}")
    wait = f", about {text.duration(stats.estimated_wait)} to wait" if stats.estimated_wait >= 1 else ""
    starting = stats.workers - stats.busy - stats.idle
    more = f", {starting} starting" if starting else ""
    if stats.waiting_workers:
        more += f"; {text.count(stats.waiting_workers, 'busy one')} in jobs that wait for other jobs"
    bounds = f", scales from {stats.least} to {stats.most}" if stats.least < stats.most else ""
    screen.write(f"workers:  {stats.workers}: {stats.busy} busy, {stats.idle} idle{more}{bounds}")
    if stats.scaling and stats.scaled_at:
        screen.write(f"size:     {stats.scaling} ({text.duration(wall() - stats.scaled_at)} ago)")
    screen.write(f"waiting:  {stats.queued} queued, {stats.scheduled} scheduled{wait}")
    if stats.oldest_waiting >= 1:
        screen.write(f"oldest:   a job has waited {text.duration(stats.oldest_waiting)} for a worker")
    screen.write(f"done:     {stats.finished}, of these {stats.failed} failed, {stats.crashed} crashed")
    screen.write(f"restarts: {text.count(stats.restarts, 'worker')} replaced after they died")
    screen.write(f"memory:   {text.size(stats.rss)}")
    if stats.store:
        screen.write(f"store:    {stats.store}")
    screen.write(f"log:      {pool.log}")
    if running:
        screen.write()
        _write_jobs([(pool.name, job) for job in running], show_pool=False)


def _show_job(pool: RunningPool, job: JobStatus) -> None:
    is_lost = not job.done and not pool.is_running()
    lines: list[tuple[str, Any]] = [
        ("job", job.id),
        ("name", text.one_line(job.name)),
        ("pool", f"{pool.name}, whose supervisor was killed: the job is lost" if is_lost else pool.name),
        ("state", text.state(job)),
        ("attempt", job.attempt or ""),
        ("progress", _describe_progress(job)),
        ("submitted", text.moment(job.submitted_at)),
        ("started", text.moment(job.started_at)),
        ("finished", text.moment(job.finished_at)),
        ("took" if job.done else "running", text.duration(text.run_time(job, wall()))),
        ("worker", job.worker_pid or ""),
        ("error", text.one_line(job.error)),
    ]
    for label, value in lines:
        if value:
            screen.write(f"{label + ':':<11}{value}")


def _describe_progress(job: JobStatus) -> str:
    progress = job.progress
    if progress is None:
        return ""
    fraction = progress.fraction
    shown = f"{progress.value:g}" + (f" of {progress.total:g} ({fraction:.0%})" if fraction is not None else "")
    left = None if job.done else progress.eta()
    parts = [shown, text.one_line(progress.message), f"about {text.duration(left)} left" if left else ""]
    return ", ".join(part for part in parts if part)


@click.command(short_help="List the known jobs, the newest first.")
@parameters.optional_name_argument
@click.option("--state", type=click.Choice([state.text for state in JobState]), help="Only jobs in this state.")
@click.option("--limit", "-n", type=click.IntRange(1), default=20, show_default=True, metavar="N", help="At most N jobs.")
@parameters.common
def jobs(name: str | None, state: str | None, limit: int, directory: str | None, as_json: bool) -> int:
    """List the jobs of the pool NAME, or of all pools of this user, the newest first."""
    found: list[tuple[str, JobStatus]] = []
    if name is not None:
        with finding.open_pool(name, directory) as pool:
            found = [(pool.name, job) for job in pool.jobs(state, limit)]
    else:
        for place in finding.running_pools(directory):
            try:
                with RunningPool(place) as pool:
                    found += [(pool.name, job) for job in pool.jobs(state, limit)]
            except ProcjobsError:
                continue  # the pool has ended just now
        found = sorted(found, key=lambda entry: entry[1].id, reverse=True)[:limit]
    if as_json:
        screen.write_json([screen.job_document(job, pool_name) for pool_name, job in found])
    elif found:
        _write_jobs(found, show_pool=name is None)
    else:
        screen.write("no job is known" + (f" in state {state}" if state else ""))
    return OK


def _write_jobs(found: list[tuple[str, JobStatus]], *, show_pool: bool) -> None:
    now = wall()
    first = -_SHORT_ID if screen.is_narrow() else 0
    rows = [
        [
            job.id[first:],
            *([pool_name] if show_pool else []),
            screen.styled(text.state(job)),
            text.moment(job.submitted_at),
            text.duration(text.run_time(job, now)),
            text.one_line(job.name),
            text.one_line(job.error) or text.amount(job.progress),
        ]
        for pool_name, job in found
    ]
    pool = ["POOL"] if show_pool else []
    screen.write_rows(["JOB", *pool, "STATE", "SUBMITTED", ">TOOK", "<NAME", "<DETAIL"], rows)


@click.command(short_help="List the queues of a pool, with their limits and jobs.")
@parameters.name_argument
@parameters.common
def queues(name: str, directory: str | None, as_json: bool) -> int:
    """List the queues of the pool NAME: their limits, the number of running jobs, and of jobs that wait for a limit."""
    with finding.open_pool(name, directory) as pool:
        found = pool.queues()
    if as_json:
        screen.write_json([queue._asdict() for queue in found])
    elif not found:
        screen.write(f"pool {name} has no queues")
    else:
        rows = [[q.name, q.running, q.held, *("-" if limit is None else limit for limit in q[1:5])] for q in found]
        screen.write_rows(["QUEUE", ">RUNNING", ">HELD", ">LIMIT", ">RATE", ">KEY LIMIT", ">KEY RATE"], rows)
    return OK


@click.command(short_help="List the workers of a pool.")
@parameters.optional_name_argument
@parameters.common
def workers(name: str | None, directory: str | None, as_json: bool) -> int:
    """List the workers of the pool NAME, or of all pools of this user."""
    if name is not None:
        with finding.open_pool(name, directory) as pool:
            found = [(pool.name, worker) for worker in pool.workers()]
    else:
        found = []
        for place in finding.running_pools(directory):
            try:
                with RunningPool(place) as pool:
                    found += [(pool.name, worker) for worker in pool.workers()]
            except ProcjobsError:
                continue  # the pool has ended just now
        if not found and not as_json:
            screen.write("no pool is running")
            return OK
    if as_json:
        screen.write_json([screen.worker_document(worker, pool_name) for pool_name, worker in found])
        return OK
    now = wall()
    first = -_SHORT_ID if screen.is_narrow() else 0
    rows = [
        [
            *([pool_name] if name is None else []),
            worker.slot,
            worker.pid or "",
            screen.styled(worker.state),
            f"{worker.cpu_percent:.0f}%",
            text.size(worker.rss),
            worker.jobs_done,
            text.duration(now - worker.started_at),
            (worker.job_id or "")[first:],
        ]
        for pool_name, worker in found
    ]
    pool_column = ["POOL"] if name is None else []
    screen.write_rows([*pool_column, ">SLOT", ">PID", "STATE", ">CPU", ">MEMORY", ">DONE", ">AGE", "JOB"], rows)
    return OK


