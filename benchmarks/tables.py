"""What was measured, as tables: for the terminal and in Markdown."""

from __future__ import annotations

from measures import MEASURES
from rich.markup import escape
from rich.table import Table

WIDE = 2
"""A measure with more numbers than this shows them without their spread."""


def rows_of(name, measured):
    """Yield (participant, cells, note): for each metric the ratio, the share of the floor, the median, the spread."""
    measure = MEASURES[name]
    for participant in measure.participants:
        if participant in measured["left_out"]:
            continue
        result = measured["results"].get(participant, {})
        cells = []
        for key in measure.metrics:
            value = result.get(key)
            if value is None:
                cells.append(None)
                continue
            ratio = None if participant == measure.ours else value.get("procjobs_is_better_by")
            floor = None if participant == measure.floor else value.get("times_the_floor")
            cells.append((ratio, floor, value["median"], value["min"], value["max"]))
        notes = [result.get("note", ""), missing_note(measured["missing"].get(participant))]
        yield participant, cells, "; ".join(filter(None, notes))


def missing_note(reason):
    return f"missing: {reason}" if reason else ""


def show(name, measured, console):
    measure = MEASURES[name]
    wide = len(measure.metrics) > WIDE
    table = Table(title=f"{name}: {measured['title']} ({measured['size']:,})", title_justify="left", title_style="bold")
    table.add_column("")
    for metric in measure.metrics.values():
        table.add_column("procjobs is\nbetter by", justify="right")
        if measure.floor and not wide:
            table.add_column("of the\nfloor", justify="right")
        table.add_column(f"{metric.label}, {metric.unit}", justify="right")
        if not wide:
            table.add_column("min - max", justify="right", style="dim")
    table.add_column("")
    for participant, cells, note in rows_of(name, measured):
        row = []
        for cell in cells:
            ratio, floor, median, least, most = cell or (None,) * 5
            color = "green" if ratio is None or ratio >= 1 else "red"
            row.append("" if ratio is None else f"[{color}]{ratio:.3g} x[/]")
            if measure.floor and not wide:
                row.append("" if floor is None else f"{floor:.3g} x")
            row.append("-" if median is None else number(median))
            if not wide:
                row.append("" if median is None else f"{number(least)} - {number(most)}")
        table.add_row(participant, *row, escape(note), style="bold" if participant == measure.ours else "")
    console.print(table)
    if measured["left_out"]:
        console.print(f"Not in --quick: {', '.join(measured['left_out'])}", style="dim")


def markdown(name, measured):
    """Return the same table in Markdown."""
    measure = MEASURES[name]
    wide = len(measure.metrics) > WIDE
    head = [""]
    for metric in measure.metrics.values():
        head += ["procjobs is better by", *(["of the floor"] if measure.floor and not wide else [])]
        head += [f"{metric.label}, {metric.unit}", *([] if wide else ["min - max"])]
    head.append("")
    lines = [f"### {name}", "", f"{measured['title']} ({measured['size']:,}).", ""]
    lines += ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 2) + "---|"]
    for participant, cells, note in rows_of(name, measured):
        row = [f"**{participant}**" if participant == measure.ours else participant]
        for cell in cells:
            ratio, floor, median, least, most = cell or (None,) * 5
            row.append("" if ratio is None else f"{ratio:.3g} x")
            if measure.floor and not wide:
                row.append("" if floor is None else f"{floor:.3g} x")
            row.append("-" if median is None else number(median))
            if not wide:
                row.append("" if median is None else f"{number(least)} - {number(most)}")
        row.append(note.replace("|", "/"))
        lines.append("| " + " | ".join(row) + " |")
    if measured["left_out"]:
        lines += ["", f"Not in `--quick`: {', '.join(measured['left_out'])}."]
    return "\n".join(lines) + "\n"


def number(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
