"""`demo`: a private pool runs six jobs that succeed, crash, hang and fail, in a few seconds."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import tempfile
from typing import TYPE_CHECKING, Any, Final

import click

from procjobs.cli import bars, demo_jobs, output, parameters, screen, text
from procjobs.cli.problems import FAILED, OK
from procjobs.client.pool import Pool
from procjobs.errors import UnknownJob

if TYPE_CHECKING:
    from procjobs.client.job import Job
    from procjobs.shared.records import JobStatus

_WORKERS: Final = 3
_INTERVAL: Final = 0.1


class _Act:
    """One job of the demo, the state in which it has to end, and a remark that explains it."""

    def __init__(self, job: Job[Any], expected: str, remark: str) -> None:
        self.job = job
        self.expected = expected
        self.remark = remark


@click.command(short_help="Show in a few seconds how procjobs works.")
@parameters.common
def demo(directory: str | None, as_json: bool) -> int:
    """Start a pool, run jobs that report progress, crash, hang and retry, and explain the result. Takes a few seconds."""
    console = screen.standard_output() if not as_json else screen.standard_error()
    say = (lambda _line="": None) if as_json else screen.write
    say(f"A private pool with {_WORKERS} workers: it ends with this process.")
    with open(os.devnull, "wb") as nowhere, output.to_standard_error(nowhere.fileno()):
        pool = Pool(workers=_WORKERS, directory=directory)
    with tempfile.TemporaryDirectory() as folder, pool:
        acts = _begin(pool, f"{folder}/marker")
        say(f"{len(acts)} jobs are submitted: pickled here, each sent with one system call.\n")
        with bars.progress_bars(console) as follow:
            statuses = _play(acts, follow)
        stats = pool.stats()
    if as_json:
        documents = [screen.job_document(status, "private") for status in statuses]
        screen.write_json({"jobs": documents, "workers_replaced": stats.restarts})
    else:
        _tell(acts, statuses, stats.restarts)
    return OK if all(act.expected == status.state for act, status in zip(acts, statuses, strict=True)) else FAILED


def _begin(pool: Pool, marker: str) -> list[_Act]:
    quick = {"grace_period": 0.3, "backoff": 0.1}
    return [
        _Act(
            pool.options(name="count primes", **quick).submit(demo_jobs.search_primes, 20_000, 4.0),
            "succeeded",
            "reported progress into shared memory, where any process can read it by the job's id",
        ),
        _Act(
            pool.options(name="crash", **quick).submit(demo_jobs.crash_half_way),
            "failed",
            "died of SIGSEGV: its worker was replaced, and no other job was lost",
        ),
        _Act(
            pool.options(name="hang, timeout 2 s", timeout=2, **quick).submit(demo_jobs.never_end),
            "failed",
            "ignored its interruption at the deadline and was killed 0.3 s later",
        ),
        _Act(
            pool.options(name="fail once, retries 1", retries=1, **quick).submit(demo_jobs.fail_once, marker),
            "succeeded",
            "raised an exception in its first attempt and was started again",
        ),
        *(
            _Act(
                pool.options(name=f"count primes {number}", **quick).submit(demo_jobs.search_primes, 10_000, 1.5),
                "succeeded",
                "waited for a free worker" if number == 2 else "did the same at the same time",
            )
            for number in (2, 3)
        ),
    ]


def _play(acts: list[_Act], follow: bars.Follower) -> list[JobStatus]:
    pending: set[concurrent.futures.Future[Any]] = {act.job for act in acts}
    while pending:
        pending = concurrent.futures.wait(pending, timeout=_INTERVAL).not_done
        for act in acts:
            with contextlib.suppress(UnknownJob):
                follow(act.job.status())
    return [act.job.status() for act in acts]


def _tell(acts: list[_Act], statuses: list[JobStatus], restarts: int) -> None:
    screen.write("\nThe jobs:")
    for act, status in zip(acts, statuses, strict=True):
        took = text.duration(text.run_time(status, 0.0))
        screen.write(f"  {status.name:<22}{text.state(status):<18}{took:>6}\n      {act.remark}")
    screen.write(f"\nWorkers that died and were replaced: {restarts}.\nNothing of the pool is left: no process, no file.")
    screen.write("Next: procjobs run MODULE:FUNCTION, procjobs start NAME, procjobs top")
