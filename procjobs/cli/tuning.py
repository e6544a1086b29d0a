"""`tune`: how many workers a pool should have on this host."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from procjobs.cli import calls, output, parameters, screen, text, tuning_calls, tuning_view
from procjobs.cli.problems import FAILED, INTERRUPTED, OK, Problem
from procjobs.cli.starting import use_working_directory
from procjobs.errors import TuningFailed
from procjobs.shared.config import NICE
from procjobs.tuning import Tuning

if TYPE_CHECKING:
    from procjobs.settings.editor import Change, Place
    from procjobs.tuning import Report

_SECONDS: Final = 10.0
_ABOUT: Final = """
    JSON for --args and in each line of the file is a list of arguments, an object of arguments by name, or
    {"args": [...], "kwargs": {...}}. Several calls are made in turn, so give real and typical ones. If two jobs at a time
    must not have the same arguments, give at least as many calls as the largest pool has workers.
    """


class _Destination(NamedTuple):
    """The chart and the settings that the result is written to, checked before minutes are spent on measuring."""

    chart: Path | None
    place: Place | None
    pool: str

    @classmethod
    def checked(cls, chart: str | None, pool: str | None) -> _Destination:
        path = None if chart is None else Path(chart)
        if path is not None:
            from procjobs.tuning.charts import check_chart

            check_chart(path)
        if pool is None:
            return cls(path, None, "")
        from procjobs.settings.editor import choose_pool, find_place

        place = find_place()
        return cls(path, place, choose_pool(place, pool or None))

    def draw(self, report: Report) -> None:
        """Draw the chart, if the user asked for one."""
        if self.chart is not None and report.measurements:
            from procjobs.tuning.charts import draw_chart

            draw_chart(report, self.chart)

    def write(self, workers: int) -> Change | None:
        """Write the settings, if the user asked for that."""
        if self.place is None:
            return None
        from procjobs.settings.editor import write_workers

        return write_workers(self.place, self.pool, workers)


def _parse_sizes(_context: click.Context, _parameter: click.Parameter, given: str | None) -> list[int] | None:
    if given is None:
        return None
    words = given.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise click.BadParameter(f"{given!r} is no list of sizes: give 1,2,4")
    return [int(word) for word in words]


@click.command(short_help="Find how many workers a pool should have here.")
@parameters.call
@click.option(
    "--args",
    "sets",
    type=tuning_calls.parse_words,
    multiple=True,
    metavar="ARGS",
    help="The arguments of a call: words, or JSON. Repeat it for more calls, which are made in turn.",
)
@click.option(
    "--args-file", metavar="FILE", help="A file with a call in each line, as JSON; - reads standard input."
)
@click.option(
    "--sizes", callback=_parse_sizes, metavar="1,2,4", help="The sizes to measure; by default up to twice the CPUs."
)
@click.option("--most", type=int, metavar="N", help="The largest size to measure.")
@click.option(
    "--seconds",
    type=parameters.parse_seconds,
    default=str(_SECONDS),
    show_default=True,
    metavar="TIME",
    help="The minimum time for each size.",
)
@click.option(
    "--jobs",
    type=int,
    metavar="N",
    help="The minimum number of jobs for each size; by default 3 per worker, and each call once.",
)
@click.option(
    "--memory", type=parameters.parse_size, metavar="SIZE", help="The pool's memory limit; by default 10% stays free."
)
@click.option("--preload", multiple=True, metavar="MODULE", help="Import this module once, before workers are forked.")
@click.option("--nice", type=int, metavar="N", help=f"Add to the workers' niceness; by default {NICE}, as in any pool.")
@click.option(
    "--threads", type=parameters.parse_threads, metavar="N", help="Threads of numeric libraries; auto: CPUs per worker."
)
@click.option(
    "--affinity", type=parameters.parse_cpus, metavar="CPUS", help="spread: a share for each worker; or 0,2-3 for all."
)
@click.option(
    "--timeout",
    type=parameters.parse_seconds,
    metavar="TIME",
    help="Stop a job if it runs longer; it counts as failed.",
)
@click.option("--chart", metavar="FILE", help="Draw the curve into a file: .png, .svg, .pdf.")
@click.option(
    "--write",
    "pool",
    is_flag=False,
    flag_value="",
    metavar="[POOL]",
    help="Write the result into the settings file for this host and this pool; the default is the only pool there.",
)
@parameters.common
def tune(
    function: str,
    arguments: tuple[str, ...],
    keywords: tuple[tuple[str, Any], ...],
    sets: tuple[Any, ...],
    args_file: str | None,
    memory: int | None,
    chart: str | None,
    pool: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Run MODULE:FUNCTION as jobs in pools of several sizes, and find the size that is enough.

    This is the smallest size that fits into memory and whose throughput is within 5 % of the best, or so close to the best
    that the measurement cannot tell them apart. The jobs really run, with all their effects; their output is not shown.
    Exit code 1 if most jobs fail, or if no size fits into memory. Ctrl-C ends the command and shows the sizes that were
    measured so far.
    """
    destination = _Destination.checked(chart, pool)
    use_working_directory()
    called = calls.load_function(function)
    made = tuning_calls.choose(arguments, dict(keywords), sets, args_file)
    with open(os.devnull, "wb") as nowhere:
        around_start = partial(output.to_standard_error, nowhere.fileno())
        tuning = Tuning(called, made, memory_bytes=memory, around_start=around_start, **parameters.given(options))
        ended_by = _measure(tuning, as_json=as_json)
    return _finish(tuning, ended_by, destination, as_json=as_json)


tune.help = (tune.help or "") + parameters.ABOUT_ARGUMENTS + _ABOUT


def _measure(tuning: Tuning, *, as_json: bool) -> BaseException | None:
    """Measure all sizes; return the exception that ended this before the last size, or None."""
    has_lines = not as_json and not screen.standard_error().is_terminal
    try:
        with tuning_view.progress(len(tuning.sizes)) as follow:
            for result in tuning.run(follow):
                if has_lines:
                    screen.remark(tuning_view.line(result))
    except (KeyboardInterrupt, TuningFailed) as error:
        return error
    return None


def _finish(tuning: Tuning, ended_by: BaseException | None, destination: _Destination, *, as_json: bool) -> int:
    """Show the report, write the settings and the chart, and return the exit code; raise Problem for a failure."""
    report = tuning.report()
    knee = report.knee
    change = destination.write(knee.workers) if ended_by is None and knee is not None else None
    if as_json:
        screen.write_json({**report.document(), "complete": ended_by is None, "written": _describe(change)})
    elif report.measurements:
        tuning_view.write(report)
    if change is not None and not as_json:
        screen.write(str(change))
    destination.draw(report)
    if isinstance(ended_by, KeyboardInterrupt):
        measured = f"{len(report.measurements)} of {text.count(len(tuning.sizes), 'size')} measured"
        screen.remark(f"procjobs: interrupted, {measured}" + ("; nothing is written" if destination.place else ""))
        return INTERRUPTED
    if ended_by is not None:
        raise Problem(str(ended_by), f"`procjobs run {report.function} ...` runs one job and shows its output", FAILED)
    if knee is None:
        raise Problem(report.in_words(), "--memory sets another limit", FAILED)
    return OK


def _describe(change: Change | None) -> dict[str, Any] | None:
    return None if change is None else {**change._asdict(), "path": str(change.path)}
