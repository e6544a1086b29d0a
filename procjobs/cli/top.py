"""`top`: a live picture of a pool, with keys to control it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from procjobs.cli import finding, parameters, screen
from procjobs.cli.problems import NOT_RUNNING, OK, Problem
from procjobs.cli.sampling import Sample, Sampler
from procjobs.clock import monotonic, sleep
from procjobs.errors import ProcjobsError

if TYPE_CHECKING:
    from procjobs.client.running_pool import RunningPool

_MESSAGE_SECONDS: Final = 4.0


@click.command(short_help="Show a pool live, with keys to control it.")
@parameters.optional_name_argument
@click.option(
    "--interval",
    type=click.FloatRange(0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="The time between two pictures.",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N pictures (default in a pipe: 1).")
@parameters.common
def top(name: str | None, interval: float, count: int | None, directory: str | None, as_json: bool) -> int:
    """Show the pool NAME, or the only running pool, live: workers, CPU, memory, jobs with bars, queue, rates.

    \b
    up, down    select a job        p    pause, resume
    c           cancel it           + -  one worker more, one less
    q           quit

    The command costs the supervisor nothing and does not keep the pool alive. In a pipe it prints one picture, with
    --json a line for each sample.
    """
    with finding.open_one(name, directory) as pool:
        if as_json:
            _write_samples(pool, interval, count or 2**62)
        elif sys.stdout.isatty() and sys.stdin.isatty():
            _Live(pool, interval, count or 2**62).run()
        else:
            _print_pictures(pool, interval, count or 1)
    return OK


def _write_samples(pool: RunningPool, interval: float, count: int) -> None:
    sampler = Sampler(pool)
    for number in range(count):
        if number:
            sleep(interval)
        screen.write_json(_document(_checked(sampler.take())), is_line=True)


def _document(sample: Sample) -> dict[str, Any]:
    workers = []
    for line in sample.lines:
        document = screen.worker_document(line.worker, sample.pool)
        document |= {"cpu_percent": round(line.cpu_percent, 1), "rss": line.rss}
        workers.append(document | {"job": None if line.job is None else screen.job_document(line.job, sample.pool)})
    return {
        **screen.stats_document(sample.stats, sample.pool),
        "at": sample.at,
        "state": sample.state,
        "cpu_percent": round(sample.cpu_percent, 1),
        "jobs_per_second": round(sample.jobs_per_second, 2),
        "failures_per_second": round(sample.failures_per_second, 2),
        "worker_list": workers,
    }


def _print_pictures(pool: RunningPool, interval: float, count: int) -> None:
    from procjobs.cli.top_view import draw

    console, sampler = screen.standard_output(), Sampler(pool)
    console.width = 120
    sampler.take()  # the first sample: rates are measured from here
    for _ in range(count):
        sleep(min(interval, 1.0))
        picture = draw(_checked(sampler.take()), selected=None, message=" ", width=console.width, height=60)
        with console.capture() as capture:
            console.print(picture)
        screen.write("\n".join(line.rstrip() for line in capture.get().splitlines()).rstrip() + "\n")


def _checked(sample: Sample) -> Sample:
    if sample.state == "gone":
        raise Problem(f"pool {sample.pool!r} has ended", "", NOT_RUNNING)
    return sample


class _Live:
    """The picture on a terminal, drawn again and again, and the actions of the keys."""

    def __init__(self, pool: RunningPool, interval: float, count: int) -> None:
        self._pool = pool
        self._interval = interval
        self._count = count
        self._sampler = Sampler(pool)
        self._sample = self._sampler.take()
        self._selected: str | None = None
        self._position = 0
        self._message = ""
        self._message_until = 0.0

    def run(self) -> None:
        """Draw until q is pressed, the pool has ended, or `count` pictures were drawn."""
        from rich.live import Live

        from procjobs.cli.keyboard import Keyboard

        console = screen.standard_output()
        with Keyboard() as keyboard, Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False) as live:
            for _ in range(self._count):
                self._sample = _checked(self._sampler.take())
                until = monotonic() + self._interval
                key: str | None = ""
                while key is not None:
                    self._keep_selection()
                    live.update(self._draw(console), refresh=True)
                    key = keyboard.read(until)
                    if key == "q":
                        return
                    if key is not None and self._act(key):
                        self._sample = _checked(self._sampler.take())

    def _draw(self, console: Any) -> Any:
        from procjobs.cli.top_view import draw

        message = self._message if monotonic() < self._message_until else ""
        width, height = console.size
        return draw(self._sample, selected=self._selected, message=message, width=width, height=height)

    def _keep_selection(self) -> None:
        """Keep the selection on its job; when the job has gone, select the job that has taken its place."""
        ids = self._sample.selectable()
        if self._selected not in ids:
            self._position = min(self._position, len(ids) - 1) if ids else 0
            self._selected = ids[self._position] if ids else None
        elif self._selected is not None:
            self._position = ids.index(self._selected)

    def _act(self, key: str) -> bool:
        """Do the action of a key; return whether the pool was asked to do something."""
        if key in {"up", "down"}:
            ids = self._sample.selectable()
            self._position = max(min(self._position + (1 if key == "down" else -1), len(ids) - 1), 0)
            self._selected = ids[self._position] if ids else None
            return False
        try:
            message = self._control(key)
        except ProcjobsError as error:
            message = str(error)
        finally:
            self._pool.disconnect()  # a picture must not keep an unused pool alive
        self._message, self._message_until = message, monotonic() + _MESSAGE_SECONDS
        return True

    def _control(self, key: str) -> str:
        """Send the command of a key to the pool; return a message for the user."""
        pool = self._pool
        if key == "c":
            if self._selected is None:
                return "no job to cancel"
            was_there = pool.cancel(self._selected)
            return f"job {self._selected} " + ("is cancelled" if was_there else "had ended already")
        if key == "p":
            if pool.stats().paused:
                pool.resume()
                return "the pool starts jobs again"
            pool.pause()
            return "the pool is paused: running jobs continue, no other job starts"
        if key in {"+", "-"}:
            return self._resize(1 if key == "+" else -1)
        return f"the key {key!r} has no action"

    def _resize(self, step: int) -> str:
        """Change the number of workers; for a pool that scales, change the maximum, not the current number."""
        stats = self._pool.stats()
        if stats.least < stats.most:
            self._pool.resize((stats.least, stats.most + step))
            return f"the pool has {stats.least} to {stats.most + step} workers now"
        wanted = max(stats.workers + step, 1)
        self._pool.resize(wanted)
        return f"the pool has {wanted} workers now"
