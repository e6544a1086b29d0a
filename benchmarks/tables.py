"""The results as tables, for the terminal and in Markdown."""

from __future__ import annotations

from measures import MEASURES
from rich.markup import escape
from rich.table import Table

WIDE = 2
"""A measure with more numbers than this is shown without the spread."""


def rows_of(name, measured):
    """Yield (participant, cells, note). A cell has the ratio, the share of the floor, the median and the spread."""
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


def heads_of(measure):
    """Return the headings of a measure's columns of numbers."""
    heads = []
    for metric in measure.metrics.values():
        heads += ["procjobs is\nbetter by", *(["of the\nfloor"] if has_floor(measure) else [])]
        heads += [f"{metric.label}, {metric.unit}", *([] if is_wide(measure) else ["min - max"])]
    return heads


def texts_of(measure, cells):
    """Yield (ratio, text) for each column of numbers in a row; the ratio is None in columns that show another number."""
    for cell in cells:
        ratio, floor, median, minimum, maximum = cell or (None,) * 5
        yield ratio, "" if ratio is None else f"{ratio:.3g} x"
        if has_floor(measure):
            yield None, "" if floor is None else f"{floor:.3g} x"
        yield None, "-" if median is None else number(median)
        if not is_wide(measure):
            yield None, "" if median is None else f"{number(minimum)} - {number(maximum)}"


def is_wide(measure):
    return len(measure.metrics) > WIDE


def has_floor(measure):
    return bool(measure.floor) and not is_wide(measure)


def show(name, measured, console):
    measure = MEASURES[name]
    table = Table(title=f"{name}: {measured['title']} ({measured['size']:,})", title_justify="left", title_style="bold")
    table.add_column("")
    for head in heads_of(measure):
        table.add_column(head, justify="right", style="dim" if head == "min - max" else "")
    table.add_column("")
    for participant, cells, note in rows_of(name, measured):
        row = [text if ratio is None else coloured(ratio, text) for ratio, text in texts_of(measure, cells)]
        table.add_row(participant, *row, escape(note), style="bold" if participant == measure.ours else "")
    console.print(table)
    if measured["left_out"]:
        console.print(f"Not in --quick: {', '.join(measured['left_out'])}", style="dim")


def coloured(ratio, text):
    return f"[{'green' if ratio >= 1 else 'red'}]{text}[/]"


def markdown(name, measured):
    """Return the same table in Markdown."""
    measure = MEASURES[name]
    head = ["", *(head.replace("\n", " ") for head in heads_of(measure)), ""]
    lines = [f"### {name}", "", f"{measured['title']} ({measured['size']:,}).", ""]
    lines += ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 2) + "---|"]
    for participant, cells, note in rows_of(name, measured):
        shown = f"**{participant}**" if participant == measure.ours else participant
        row = [shown, *(text for _, text in texts_of(measure, cells)), note.replace("|", "/")]
        lines.append("| " + " | ".join(row) + " |")
    if measured["left_out"]:
        lines += ["", f"Not in `--quick`: {', '.join(measured['left_out'])}."]
    return "\n".join(lines) + "\n"


def number(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
