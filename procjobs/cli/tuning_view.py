"""The output of `tune`: bars while a size is measured, and the measured curve as a table with bars."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from procjobs.cli import colours, screen, text
from procjobs.tuning import Skipped
from procjobs.tuning.report import digits

if TYPE_CHECKING:
    from procjobs.tuning import Measurement, Report
    from procjobs.tuning.measure import Moment

_WIDEST: Final = 40
_OTHERS: Final = 66
"""The columns beside the bar."""

Follower = Callable[["Moment"], None]
"""A function that is called with each Moment of the measuring."""


@contextmanager
def progress(count: int) -> Iterator[Follower]:
    """Draw the progress of measuring `count` sizes, if standard error is a terminal."""
    console = screen.standard_error()
    if not console.is_terminal:
        yield _ignore
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.theme import Theme

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=max(min(console.width - 60, _WIDEST), 10)),
        TextColumn("{task.fields[stage]}"),
    )
    # While a pool starts, standard error is redirected for the pool. So the bars are drawn on a copy of the descriptor.
    with open(os.dup(2), "w") as terminal:
        own = Console(file=terminal, highlight=False, theme=Theme(colours.BARS))
        with Progress(*columns, console=own, transient=True, refresh_per_second=10) as drawn:
            whole = drawn.add_task("", total=count, stage="")
            tasks: dict[int, Any] = {}

            def follow(moment: Moment) -> None:
                if moment.workers not in tasks:
                    for former in tasks.values():
                        drawn.update(former, completed=1, visible=False)
                    tasks[moment.workers] = drawn.add_task(text.count(moment.workers, "worker"), total=1, stage="")
                    drawn.update(whole, description=f"size {len(tasks)} of {count}", completed=len(tasks) - 1)
                drawn.update(tasks[moment.workers], completed=_share(moment), stage=_stage(moment))

            yield follow


def _share(moment: Moment) -> float:
    return min(moment.elapsed / moment.seconds, moment.jobs / moment.min_jobs, 1.0)


def _stage(moment: Moment) -> str:
    shown = moment.stage
    if moment.stage == "measuring":
        shown = f"{text.duration(moment.elapsed)} of {text.duration(moment.seconds)}, {text.count(moment.jobs, 'job')}"
        if moment.elapsed >= moment.seconds:
            shown += f" of {moment.min_jobs}"
        shown += f", {text.size(moment.memory_bytes)}"
    return shown + (f", [bold {colours.RED}]{moment.failed} failed[/]" if moment.failed else "")


def _ignore(_moment: Moment) -> None:
    """Draw nothing: there is no terminal."""


def line(result: Measurement | Skipped) -> str:
    """Return the result of a size in one line."""
    workers = text.count(result.workers, "worker")
    if isinstance(result, Skipped):
        return f"{workers}: left out, would need {text.size(result.expected_bytes)} of memory"
    shown = f"{workers}: {digits(result.throughput)} jobs/s, {text.count(result.jobs, 'job')} in {result.seconds:.1f}s"
    shown += f", p50 {text.span(result.p50)}, {text.size(result.memory_bytes)}"
    return shown + (f", {result.failed} failed" if result.failed else "")


def write(report: Report) -> None:
    """Write the table, the recommendation and the remarks."""
    if report.measurements:
        screen.write_table(table(report))
        screen.write()
    for sentence in (report.in_words(), *(f"  {remark}" for remark in report.remarks())):
        screen.write(sentence)


def table(report: Report) -> Any:
    """Return the curve: a row for each size, with its throughput as a bar; > marks the recommended size.

    There is a bar for each size and not a line through points, because the sizes are few, and nothing between them was
    measured.
    """
    from rich.bar import Bar
    from rich.text import Text

    width = max(min(screen.standard_output().width - _OTHERS, _WIDEST), 8)
    drawn = screen.empty_table()
    has_failures = any(measured.failed for measured in report.measurements)
    names = ["", ">WORKERS", ">JOBS/S", "", ">EACH", ">P50", ">P95", ">MEMORY", ">LARGEST", ">CPU/JOB", ">CPUS"]
    for name in [*names, ">FAILED"] if has_failures else names:
        drawn.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left", no_wrap=True)
    knee = report.knee
    highest = max(measured.throughput for measured in report.measurements)
    for measured in report.measurements:
        is_chosen = knee is not None and measured.workers == knee.workers
        is_too_big = knee is not None and measured.workers in knee.too_big
        color = colours.GREEN if is_chosen else colours.RED if is_too_big else colours.CYAN
        cells = [Text(cell) for cell in _cells(report, measured)]
        bar = Bar(highest or 1.0, 0, measured.throughput, width=width, color=color)
        row: list[Text | Bar] = [Text(">" if is_chosen else "", style=color), *cells[:2], bar, *cells[2:]]
        if has_failures:
            row.append(Text(str(measured.failed), style=colours.RED if measured.failed else ""))
        drawn.add_row(*row, style="bold" if is_chosen else "")
    return drawn


def _cells(report: Report, measured: Measurement) -> list[str]:
    efficiency = report.efficiency(measured)
    return [
        str(measured.workers),
        digits(measured.throughput),
        "" if efficiency is None else f"{efficiency:.0%}",
        text.span(measured.p50),
        text.span(measured.p95),
        text.size(measured.memory_bytes),
        text.size(measured.worker_rss_bytes),
        text.span(measured.cpu_seconds_per_job),
        f"{measured.pool_cpus:.1f}",
    ]
