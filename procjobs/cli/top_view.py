"""The picture that `top` draws of a sample, for a terminal of a given size. Pure."""

from __future__ import annotations

from typing import Final

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from procjobs.cli import colours, text
from procjobs.cli.sampling import Line, Sample
from procjobs.shared.records import JobStatus

KEYS: Final = "↑↓ select  c cancel  p pause  + - workers  q quit"
_STATE_STYLES: Final = {"running": colours.GREEN, "paused": colours.AMBER, "draining": colours.AMBER}
_FIXED_LINES: Final = 8
_SHORT_ID: Final = 8


def draw(sample: Sample, *, selected: str | None, message: str, width: int, height: int) -> RenderableType:
    """Return the picture: the pool, its workers with their jobs, waiting jobs, ended jobs, and the keys."""
    room = max(height - _FIXED_LINES - (1 if sample.stats.problem else 0), 1)
    lines = sample.lines[: max(room * 2 // 3, min(room, 3))]
    waiting = sample.waiting[: max((room - len(lines) - 1) // 2, 0)]
    ended = sample.ended[: max(room - len(lines) - len(waiting) - 2, 0)]
    parts: list[RenderableType] = [*_head(sample, width), Text(), _worker_table(lines, selected, sample.at, width)]
    hidden = len(sample.lines) - len(lines)
    if hidden:
        parts.append(Text(f"  and {text.count(hidden, 'more worker')}", style="dim"))
    if waiting:
        parts.append(_job_table(f"WAITING {len(sample.waiting)}", waiting, selected, sample.at))
    if ended:
        parts.append(_job_table("ENDED", ended, None, sample.at))
    parts += [Text(), Text(message or KEYS, style="" if message else "dim", no_wrap=True, overflow="ellipsis")]
    return Group(*parts)


def _head(sample: Sample, width: int) -> list[Text]:
    stats = sample.stats
    first = Text.assemble(
        ("pool ", "dim"),
        (sample.pool, "bold"),
        "  ",
        (sample.state, _STATE_STYLES.get(sample.state, f"bold {colours.RED}")),
        ("  up ", "dim"),
        text.duration(stats.uptime),
        ("  supervisor ", "dim"),
        str(stats.supervisor_pid),
    )
    first.no_wrap, first.overflow = True, "ellipsis"
    clock = text.moment(sample.at)
    first.pad_right(max(width - first.cell_len - len(clock), 1))
    first.append(clock, style="dim")
    bounds = f" of {stats.least}-{stats.most}" if stats.least < stats.most else ""
    second = _labelled(
        ("workers", f"{stats.workers}{bounds}: {stats.busy} busy, {stats.idle} idle"),
        ("cpu", f"{sample.cpu_percent:.0f}%"),
        ("memory", text.size(stats.rss)),
        ("restarts", str(stats.restarts)),
    )
    wait = f", about {text.duration(stats.estimated_wait)} to wait" if stats.estimated_wait >= 1 else ""
    fails = f", {sample.failures_per_second:.1f}/s fail" if sample.failures_per_second else ""
    third = _labelled(
        ("queue", f"{stats.queued} queued, {stats.scheduled} scheduled{wait}"),
        ("done", f"{stats.finished}, {stats.failed} failed, {stats.crashed} crashed"),
        ("rate", f"{sample.jobs_per_second:.1f}/s{fails}"),
    )
    heads = [first, second, third]
    if stats.problem:
        heads.append(Text(text.first_line(stats.problem), style=colours.RED, no_wrap=True, overflow="ellipsis"))
    return heads


def _labelled(*pairs: tuple[str, str]) -> Text:
    shown = Text(no_wrap=True, overflow="ellipsis")
    for label, value in pairs:
        shown.append(f"{label} ", style="dim")
        shown.append(f"{value}   ")
    return shown


def _worker_table(lines: list[Line], selected: str | None, now: float, width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="reverse", expand=True)
    for name, is_number in (("", False), ("SLOT", True), ("PID", True), ("STATE", False), ("CPU", True), ("MEMORY", True)):
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    table.add_column("JOB", no_wrap=True, ratio=2, overflow="ellipsis")
    table.add_column("", width=max(min(width - 90, 30), 8))
    table.add_column("PROGRESS", no_wrap=True, ratio=1, overflow="ellipsis")
    table.add_column("TIME", justify="right", no_wrap=True)
    table.add_column("LEFT", justify="right", no_wrap=True)
    for line in lines:
        worker, job = line.worker, line.job
        is_selected = job is not None and job.id == selected
        table.add_row(
            ">" if is_selected else "",
            str(worker.slot),
            str(worker.pid or ""),
            Text(worker.state, style=colours.STATES.get(worker.state, "")),
            f"{line.cpu_percent:.0f}%",
            text.size(line.rss),
            *_job_cells(job, now),
            style="bold" if is_selected else "",
        )
    return table


def _job_cells(job: JobStatus | None, now: float) -> list[RenderableType]:
    if job is None:
        return ["", "", "", "", ""]
    progress = job.progress
    bar: RenderableType = ""
    left = None
    if progress is not None and progress.fraction is not None:
        bar = ProgressBar(total=1.0, completed=progress.fraction)
        left = progress.eta()
    return [
        _title(job),
        bar,
        Text(text.amount(progress)),
        text.duration(text.run_time(job, now)),
        text.duration(left),
    ]


def _title(job: JobStatus) -> Text:
    return Text.assemble((job.id[-_SHORT_ID:], "dim"), " ", text.one_line(job.name))


def _job_table(title: str, jobs: list[JobStatus], selected: str | None, now: float) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim", expand=True)
    table.add_column("", no_wrap=True)
    table.add_column(title, no_wrap=True, ratio=1, overflow="ellipsis")
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, ratio=1, overflow="ellipsis")
    for job in jobs:
        since = job.finished_at or job.submitted_at
        table.add_row(
            ">" if job.id == selected else "",
            _title(job),
            Text(text.state(job), style=colours.STATES.get(job.state, "")),
            f"{text.duration(now - since)} ago",
            Text(text.one_line(job.error)),
        )
    return table
