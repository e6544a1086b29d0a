"""`health` and `kinds`: for probes of load balancers and containers, and for people who ask how jobs fare."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from procjobs.cli import finding, parameters, screen, text
from procjobs.cli.problems import FAILED, NO_SUPERVISOR, OK, Problem
from procjobs.errors import SupervisorLost

if TYPE_CHECKING:
    from procjobs.client.running_pool import RunningPool
    from procjobs.shared.records import PoolStats


@click.command(short_help="Tell by the exit code whether a pool is well.")
@parameters.name_argument
@click.option(
    "--max-wait", type=parameters.parse_seconds, metavar="TIME", help="Unwell too if a job has waited longer for a worker."
)
@parameters.common
def health(name: str, max_wait: float | None, directory: str | None, as_json: bool) -> int:
    """Tell by the exit code whether the pool NAME is well: 0 if it is.

    1 if it is degraded (its code cannot be loaded), draining, without its store, or with --max-wait, if a job has waited
    longer for a worker; 3 if it is not running; 5 if its supervisor does not answer. Starts nothing.
    """
    with finding.open_pool(name, directory) as pool:
        _ask(pool)
        stats = pool.stats()
        problems = list(_problems(stats, max_wait))
    if as_json:
        document = {"pool": name, "healthy": not problems, "problems": problems, "oldest_waiting": stats.oldest_waiting}
        screen.write_json({**document, "waits": stats.waits})
    else:
        screen.write(f"pool {name} is " + ("healthy" if not problems else "not healthy: " + "; ".join(problems)))
    return FAILED if problems else OK


def _ask(pool: RunningPool) -> None:
    """Make sure that the supervisor answers: shared memory looks well also while it is stopped."""
    try:
        pool.welcome()
    except SupervisorLost as error:
        raise Problem(str(error), f"see {pool.log}", NO_SUPERVISOR) from None


def _problems(stats: PoolStats, max_wait: float | None) -> Iterator[str]:
    if stats.problem:
        yield f"degraded: {text.first_line(stats.problem)}"
    if stats.draining:
        yield "draining: it takes no more jobs"
    if stats.store is not None and stats.store != "available":
        yield f"store {text.one_line(stats.store)}"
    if max_wait is not None and stats.oldest_waiting > max_wait:
        yield f"a job has waited {text.duration(stats.oldest_waiting)} for a worker, longer than {text.duration(max_wait)}"


@click.command(short_help="Show how the jobs of each kind have fared.")
@parameters.name_argument
@parameters.common
def kinds(name: str, directory: str | None, as_json: bool) -> int:
    """Show how the jobs of each name have fared since the pool NAME was started, the most used first.

    The times are means: how long an attempt ran, and how long it had waited before. --json has the histograms.
    """
    with finding.open_pool(name, directory) as pool:
        found = pool.kinds()
    if as_json:
        screen.write_json([
            {**kind._asdict(), "seconds": kind.seconds._asdict(), "waits": kind.waits._asdict()} for kind in found
        ])  # fmt: skip
    elif not found:
        screen.write(f"pool {name} has run no job")
    else:
        rows = [
            [text.one_line(kind.name), *kind[1:6], _mean(kind.seconds.mean), _mean(kind.waits.mean)] for kind in found
        ]
        columns = [">SUCCEEDED", ">FAILED", ">CANCELLED", ">EXPIRED", ">RETRIED", ">RAN", ">WAITED"]
        screen.write_rows(["<NAME", *columns], rows)
    return OK


def _mean(seconds: float | None) -> str:
    return "" if seconds is None else text.span(seconds)
