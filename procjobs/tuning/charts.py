"""Draws the measured curve into a file."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from procjobs.errors import ConfigurationError

if TYPE_CHECKING:
    from procjobs.tuning.report import Report

FORMATS: Final = (".png", ".svg", ".pdf")
_CURVE, _CHOSEN, _FAINT, _LIMIT = "#1f6feb", "#1a7f37", "#8c959f", "#cf222e"


def check_chart(path: Path) -> None:
    """Raise ConfigurationError if no picture can be written there. It is called before the minutes of measuring."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigurationError(f"{path}: a chart must end in one of {', '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise ConfigurationError(f"{path}: there is no directory {path.absolute().parent}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigurationError("charts need matplotlib: pip install 'procjobs[tune]'")


def draw_chart(report: Report, path: Path) -> None:
    """Draw throughput, and below it memory, over the number of workers; raise ConfigurationError as `check_chart` does."""
    check_chart(path)
    from matplotlib.figure import Figure  # not pyplot: it would open windows and change the application's backend

    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    rates, memory = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    figure.suptitle(f"{report.function}\n{report.in_words()}", fontsize=10)
    _draw_rates(report, rates)
    _draw_memory(report, memory)
    for axes in (rates, memory):
        axes.set_ylim(bottom=0)
        axes.set_axisbelow(True)
        axes.grid(visible=True, axis="y", color="#d0d7de", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}") from error


def _draw_rates(report: Report, axes: Any) -> None:
    sizes = [measured.workers for measured in report.measurements]
    rates = [measured.throughput for measured in report.measurements]
    errors = [measured.standard_error for measured in report.measurements]
    axes.errorbar(sizes, rates, yerr=errors, color=_CURVE, marker="o", markersize=4, capsize=2, label="measured")
    ideal = "if each worker did as much as one alone"
    axes.axline((0, 0), slope=rates[0] / sizes[0], color=_FAINT, linestyle="--", linewidth=1, label=ideal)
    knee = report.knee
    if knee is not None:
        rate = report.at(knee.workers).throughput
        label = f"recommended: {knee.workers}"
        axes.plot([knee.workers], [rate], "o", color=_CHOSEN, markersize=10, fillstyle="none", mew=2, label=label)
    if report.cpus <= max(sizes):
        axes.axvline(report.cpus, color=_FAINT, linestyle=":", linewidth=1, label=f"CPUs: {report.cpus}")
    axes.set_xlim(0, max(sizes) + 1)
    axes.set_ylim(top=max(rates) * 1.2 or 1)
    axes.set_ylabel("jobs per second")
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def _draw_memory(report: Report, axes: Any) -> None:
    sizes = [measured.workers for measured in report.measurements]
    memory = [measured.memory_bytes / 2**20 for measured in report.measurements]
    axes.bar(sizes, memory, width=0.5, color=_CURVE, alpha=0.6)
    limit = report.memory_limit_bytes / 2**20
    if math.isfinite(limit) and limit < 2 * max(memory):  # a limit far above would flatten the bars
        axes.axhline(limit, color=_LIMIT, linewidth=1)
        axes.annotate("limit", (sizes[0], limit), color=_LIMIT, fontsize=8, va="bottom")
    axes.set_ylabel("memory, MB")
    axes.set_xlabel("workers")
    axes.set_xticks(sizes)
