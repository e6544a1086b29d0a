"""Charts of a run, as SVG on white: procjobs in colour, the others in grey, the floor as a line."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from measures import MEASURES
from measures.data import SWEEP
from measures.web import IDLE

OURS_COLOR, OTHERS_COLOR, INK, FAINT = "#0b63c4", "#b4bdc7", "#24292f", "#6b7580"
LINE_COLORS = ("#5b6570", "#c2803a", "#5f8f5a", "#8a6fa8", "#a85a66", "#4d8f99", "#9a8d3f")
WIDTH, BAR_HEIGHT = 7.6, 0.30
FAR = 1.6
"""A floor that is longer than this many times the longest bar is written as text, not drawn."""

ON_LINES = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}

STYLE = {
    "figure.facecolor": "white", "savefig.facecolor": "white", "font.sans-serif": ["DejaVu Sans"], "font.size": 9,
    "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": "#d0d7de",
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9, "axes.titlelocation": "left",
"axes.grid": True, "axes.axisbelow": True, "grid.color": "#e6eaee", "grid.linewidth": 0.8,
    "xtick.labelsize": 8, "ytick.labelsize": 8.5, "svg.fonttype": "none",
    "svg.hashsalt": "procjobs",  # the same run gives the same file
}  # fmt: skip


def draw_all(record, directory, suffix="svg"):
    """Draw the charts of a run, and return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    drawn = []
    with mpl.rc_context(STYLE):
        for name, (needs, draw) in CHARTS.items():
            if not all(record["measures"].get(measure, {}).get("results") for measure in needs):
                continue
            figure = draw(*(record["measures"][measure] for measure in needs))
            figure.text(0.012, 0.006, describe(record), fontsize=6.5, color=FAINT, va="bottom")
            path = Path(directory, f"{name}.{suffix}")
            figure.savefig(path, dpi=110, metadata={"Date": None} if suffix == "svg" else None)
            plt.close(figure)
            if suffix == "svg":
                tidy(path)
            drawn.append(path)
    return drawn


def tidy(path):
    """Add fonts of the same widths for hosts without DejaVu, and remove blanks at the ends of lines."""
    text = path.read_text().replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, Geneva")
    path.write_text("".join(f"{line.rstrip()}\n" for line in text.splitlines()))


def describe(record):
    machine, versions = record["machine"], record["versions"]
    python = versions["python"].split()[0]
    return f"{machine['cpu']}, {machine['cpus']} CPUs, Python {python}, {record['when']}" + (
        ", --quick" if record["quick"] else ""
    )


# Bars -----------------------------------------------------------------------------------------------------------


def new_figure(title, rows, panels=1):
    """Return a figure with a bold title over panels side by side, each with room for `rows` bars."""
    height = rows * BAR_HEIGHT + 1.15
    figure, axes = plt.subplots(1, panels, figsize=(WIDTH, height), squeeze=False)
    figure.text(0.012, 1 - 0.10 / height, title, ha="left", va="top", fontsize=11, fontweight="bold")
    return figure, list(axes[0])


def finish(figure):
    height = figure.get_figheight()
    figure.tight_layout(rect=(0, 0.2 / height, 1, 1 - 0.28 / height), w_pad=2)
    return figure


def draw_bars(axis, names, values, ours, *, label=None, floor=None, floor_label="floor", notes=None):
    """Draw horizontal bars, the first name on top, each with its value; None is drawn as missing."""
    longest = max(value for value in values if value is not None)
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        own = name in ours
        if value is None:
            axis.text(0, row, " not measured", va="center", fontsize=7.5, color=FAINT, style="italic")
            continue
        axis.barh(row, value, height=0.68, color=OURS_COLOR if own else OTHERS_COLOR)
        text = f" {short(value)}" + (notes or {}).get(name, "")
        weight = "bold" if own else "normal"
        axis.text(value + longest * 0.006, row, text.lstrip(), va="center", fontsize=7.5, fontweight=weight, bbox=ON_LINES)
    axis.set_yticks(range(len(names)), names)
    for tick, name in zip(axis.get_yticklabels(), names, strict=True):
        tick.set_fontweight("bold" if name in ours else "normal")
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    axis.tick_params(length=0)
    axis.set_xlim(0, longest * 1.22)
    axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
    axis.xaxis.set_major_formatter(lambda value, _: short(value))
    if label:
        axis.set_xlabel(label, fontsize=8)
    if floor is not None:
        draw_floor(axis, floor, longest, floor_label)


def draw_floor(axis, floor, longest, label):
    if floor > longest * FAR:
        text = f"{label}: {short(floor)} \N{RIGHTWARDS ARROW}"
        axis.text(1, 0.02, text, transform=axis.transAxes, ha="right", va="bottom", fontsize=7.5, color=INK)
        return
    axis.set_xlim(0, max(longest, floor) * 1.22)
    axis.axvline(floor, color=INK, linewidth=1.1, linestyle=(0, (4, 2)))
    text = f"{label} {short(floor)}"
    axis.text(floor, -0.62, text, fontsize=7, va="bottom", ha="left" if floor < longest * 0.7 else "right")


def short(value):
    if value >= 1e6:
        return f"{value / 1e6:.3g} M"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def medians(measured, metric, names):
    return [measured["results"].get(name, {}).get(metric, {}).get("median") for name in names]


def bars_of(measure, measured):
    """Return the participants of the run, without floors."""
    floors = [name for name in MEASURES[measure].participants if name.startswith("floor")]
    return [name for name in measured["raw"] if name not in floors]


def best_first(names, values, *, more):
    ranked = sorted(zip(names, values, strict=True), key=lambda pair: (pair[1] is None, pair[1] or 0), reverse=False)
    known = [name for name, value in ranked if value is not None]
    return [*(reversed(known) if more else known), *(name for name, value in ranked if value is None)]


# The charts -----------------------------------------------------------------------------------------------------


def draw_throughput(alone, together):
    names = bars_of("throughput", alone)
    names = best_first(names, medians(alone, "rate", names), more=True)
    figure, axes = new_figure("No-op jobs per second, 2 workers", len(names), 2)
    for axis, name, measured, title in (
        (axes[0], "throughput", alone, "one client"),
        (axes[1], "clients", together, "four clients at once (procjobs: one shared pool;\nothers: a pool in each client)"),
    ):
        floor = medians(measured, "rate", [MEASURES[name].floor])[0]
        values = medians(measured, "rate", names)
        draw_bars(axis, names, values, {"procjobs"}, floor=floor, floor_label="bare relay")
        axis.set_title(title, fontsize=8, pad=14)
    axes[1].tick_params(labelleft=False)
    return finish(figure)


def draw_round_trip(measured):
    names = bars_of("roundtrip", measured)
    names = best_first(names, medians(measured, "p50", names), more=False)
    values, worst = medians(measured, "p50", names), medians(measured, "p99", names)
    figure, (axis,) = new_figure("Submit to result, one job at a time", len(names))
    floor = medians(measured, "p50", [MEASURES["roundtrip"].floor])[0]
    notes = {name: f"   (p99 {short(value)})" for name, value in zip(names, worst, strict=True) if value is not None}
    draw_bars(axis, names, values, {"procjobs"}, label="microseconds, median", floor=floor, notes=notes)
    axis.set_xlim(0, axis.get_xlim()[1] * 1.12)
    return finish(figure)


def draw_sweep(measured):
    sizes = list(SWEEP.values())
    figure, (axis,) = new_figure("numpy arrays echoed by a job: submit to result", 11)
    others = iter(LINE_COLORS)
    for name in measured["raw"]:
        values = medians(measured, next(iter(SWEEP)), [name]) and [medians(measured, size, [name])[0] for size in SWEEP]
        if None in values:
            continue
        own, floor = name == "procjobs", name == MEASURES["sweep"].floor
        color = OURS_COLOR if own else INK if floor else next(others, OTHERS_COLOR)
        axis.plot(
            sizes, values, label=name, color=color, linewidth=2.6 if own else 1.2, marker="" if floor else "o",
            markersize=5 if own else 3, linestyle=(0, (4, 2)) if floor else "-", zorder=3 if own else 2,
        )  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(sizes, list(SWEEP))
    axis.yaxis.set_major_locator(mpl.ticker.LogLocator(10, (1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda value, _: short(value))
    axis.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axis.set_ylabel("microseconds, median", fontsize=8)
    axis.tick_params(length=0, which="both")
    legend = axis.legend(frameon=False, fontsize=8, loc="upper left")
    legend.get_texts()[0].set_fontweight("bold")
    return finish(figure)


def draw_web(measured):
    names = [name for name in measured["raw"] if name != IDLE]
    jobs = dict(zip(names, medians(measured, "jobs", names), strict=True))
    values = medians(measured, "p99", names)
    ours = {name for name in names if name.startswith("procjobs")}
    title = "p99 of cheap web requests while the pool is saturated (3 web workers)"
    figure, (axis,) = new_figure(title, len(names))
    notes = {name: f" ms   ({value:.1f} jobs/s)" for name, value in jobs.items() if value is not None}
    floor = medians(measured, "p99", [IDLE])[0]
    draw_bars(axis, names, values, ours, label="milliseconds", floor=floor, floor_label="no jobs:", notes=notes)
    axis.set_xlim(0, axis.get_xlim()[1] * 1.08)
    return finish(figure)


def draw_real_work(*all_measured):
    """Draw the speed in a pool as a percentage of the speed of bare processes."""
    topics = ("thumbnails", "transcoding")
    names = bars_of("thumbnails", all_measured[0])
    figure, axes = new_figure("Real work: speed in a pool, bare processes = 100", 2 * len(names) + 1, 2)
    for axis, topic, measured in zip(axes, topics, all_measured, strict=True):
        rows, values, labels = [], [], []
        for group, (metric, text) in enumerate((("one", "1 worker"), ("two", "2 workers"))):
            floor = medians(measured, metric, [MEASURES[topic].floor])[0]
            for number, (name, value) in enumerate(zip(names, medians(measured, metric, names), strict=True)):
                rows.append(group * (len(names) + 0.6) + number)
                values.append(100 * floor / value if value and floor else 0)
                labels.append(f"{name}, {text}")
        own = [label.startswith("procjobs") for label in labels]
        axis.barh(rows, values, height=0.68, color=[OURS_COLOR if mine else OTHERS_COLOR for mine in own])
        for row, value, mine in zip(rows, values, own, strict=True):
            axis.text(value - 1.5, row, f"{value:.0f}" if value else "missing", va="center", ha="right", fontsize=7.5,
                      zorder=4, color="white" if mine else INK)  # fmt: skip
        axis.axvline(100, color=INK, linewidth=1.1, linestyle=(0, (4, 2)))
        axis.set_yticks(rows, labels)
        axis.set_ylim(rows[-1] + 0.6, -0.6)
        axis.grid(visible=False, axis="y")
        axis.tick_params(length=0)
        axis.set_title({"thumbnails": "thumbnails (Pillow)", "transcoding": "transcoding to H.264 (PyAV)"}[topic])
        axis.set_xlim(0, max(115, *(value * 1.05 for value in values)))
    for tick in axes[0].get_yticklabels():
        tick.set_fontweight("bold" if tick.get_text().startswith("procjobs") else "normal")
    axes[1].tick_params(labelleft=False)
    return finish(figure)


CHARTS = {
    "throughput": (("throughput", "clients"), draw_throughput),
    "roundtrip": (("roundtrip",), draw_round_trip),
    "sweep": (("sweep",), draw_sweep),
    "web": (("web",), draw_web),
    "work": (("thumbnails", "transcoding"), draw_real_work),
}
