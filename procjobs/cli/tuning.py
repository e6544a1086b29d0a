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
    {"args": [...], "kwargs": {...}}. With several calls, each is made in turn, so give real and typical ones: at least as
    many as the largest pool has workers, if two at a time would be in each other's way.
    """


class _Wishes(NamedTuple):
    """What is to be done with the result, checked before minutes are spent on it."""

    chart: Path | None
    place: Place | None
    pool: str

    @classmethod
    def checked(cls, chart: str | None, pool: str | None) -> _Wishes:
        path = None if chart is None else Path(chart)
        if path is not None:
            from procjobs.tuning import charts

            charts.check_chart(path)
        if pool is None:
            return cls(path, None, "")
        from procjobs.settings import editor as settings_file

        place = settings_file.find_place()
        return cls(path, place, settings_file.choose_pool(place, pool or None))

    def draw(self, report: Report) -> None:
        """Draw the chart that was asked for."""
        if self.chart is not None and report.measurements:
            from procjobs.tuning import charts

            charts.draw_chart(report, self.chart)

    def write(self, workers: int) -> Change | None:
        """Write the settings, where that was asked for."""
        if self.place is None:
            return None
        from procjobs.settings import editor as settings_file

        return settings_file.write_workers(self.place, self.pool, workers)


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
    help="The arguments of a call: words, or JSON. Again for more calls, made in turn.",
)
@click.option(
    "--args-file", metavar="FILE", help="The arguments of many calls: JSON, one call in each line; - reads them."
)
@click.option(
    "--sizes", callback=_parse_sizes, metavar="1,2,4", help="The sizes to measure; by default up to twice the CPUs."
)
@click.option("--most", type=int, metavar="N", help="No larger size than this.")
@click.option(
    "--seconds", type=float, default=_SECONDS, show_default=True, metavar="SECONDS", help="For each size, at least."
)
@click.option("--jobs", type=int, metavar="N", help="For each size, at least; by default 3 per worker, and each call.")
@click.option(
    "--memory", type=parameters.parse_size, metavar="SIZE", help="What the pool may use; by default 10% stays free."
)
@click.option("--preload", multiple=True, metavar="MODULE", help="Import it once, before workers are forked.")
@click.option("--nice", type=int, metavar="N", help=f"Add to the workers' niceness; by default {NICE}, as in any pool.")
@click.option(
    "--threads", type=parameters.parse_threads, metavar="N", help="Threads of numeric libraries; auto: CPUs per worker."
)
@click.option(
    "--affinity", type=parameters.parse_cpus, metavar="CPUS", help="spread: a share for each worker; or 0,2-3 for all."
)
@click.option("--timeout", type=float, metavar="SECONDS", help="Stop a job when it runs longer; it has failed then.")
@click.option("--chart", metavar="FILE", help="Draw the curve into a file: .png, .svg, .pdf.")
@click.option(
    "--write",
    "pool",
    is_flag=False,
    flag_value="",
    metavar="[POOL]",
    help="Write the result into the settings of this pool, of the only one by default, for this host.",
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
    """Run MODULE:FUNCTION as jobs in pools of several sizes, and tell which size is enough.

    It is the smallest one whose throughput is within 5 % of the best, or cannot be told from it, and that fits into memory.
    Jobs run as they would in a pool, so they do what they do; what they print is not shown. Exit code 1 if most of them
    fail, or no size fits into memory. Ctrl-C ends it and shows what was measured so far.
    """
    wishes = _Wishes.checked(chart, pool)
    use_working_directory()
    called = calls.load_function(function)
    made = tuning_calls.choose(arguments, dict(keywords), sets, args_file)
    with open(os.devnull, "wb") as nowhere:
        around_start = partial(output.to_standard_error, nowhere.fileno())
        tuning = Tuning(called, made, memory_bytes=memory, around_start=around_start, **parameters.given(options))
        ended = _measure(tuning, as_json=as_json)
    return _finish(tuning, ended, wishes, as_json=as_json)


tune.help = (tune.help or "") + parameters.ABOUT_ARGUMENTS + _ABOUT


def _measure(tuning: Tuning, *, as_json: bool) -> BaseException | None:
    """Measure all sizes; return what has ended that before the last one."""
    is_told = not as_json and not screen.standard_error().is_terminal
    try:
        with tuning_view.progress(len(tuning.sizes)) as tuning.tell:
            for result in tuning.run():
                if is_told:
                    screen.remark(tuning_view.line(result))
    except (KeyboardInterrupt, TuningFailed) as error:
        return error
    return None


def _finish(tuning: Tuning, ended: BaseException | None, wishes: _Wishes, *, as_json: bool) -> int:
    """Show what was measured, write what is to be written, and return the exit code; raise Problem for a failure."""
    report = tuning.report()
    knee = report.knee
    change = wishes.write(knee.workers) if ended is None and knee is not None else None
    if as_json:
        screen.write_json({**report.document(), "complete": ended is None, "written": _describe(change)})
    elif report.measurements:
        tuning_view.write(report)
    if change is not None and not as_json:
        screen.write(str(change))
    wishes.draw(report)
    if isinstance(ended, KeyboardInterrupt):
        measured = f"{len(report.measurements)} of {text.count(len(tuning.sizes), 'size')} measured"
        screen.remark(f"procjobs: interrupted, {measured}" + ("; nothing is written" if wishes.place else ""))
        return INTERRUPTED
    if ended is not None:
        raise Problem(str(ended), f"`procjobs run {report.function} ...` runs one job and shows what it prints", FAILED)
    if knee is None:
        raise Problem(report.in_words(), "--memory lets the pool have more", FAILED)
    return OK


def _describe(change: Change | None) -> dict[str, Any] | None:
    return None if change is None else {**change._asdict(), "path": str(change.path)}
