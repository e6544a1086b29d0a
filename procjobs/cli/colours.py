"""The colours, each readable on a black terminal and on a white one.

The first sixteen colours depend on the terminal, and are not readable on both: yellow, green and cyan for a black
background have a contrast of 1.6 to 2.1 on white. The dark grey behind rich's bars is more visible on white than the bars
themselves. So these colours are from the other 240, which are fixed. Each has a contrast of at least 3 against black and
against white, the minimum that WCAG 2.1 (1.4.11) asks for graphics.
"""

from __future__ import annotations

from typing import Final

RED: Final = "color(160)"
GREEN: Final = "color(28)"
AMBER: Final = "color(130)"
MAGENTA: Final = "color(127)"
CYAN: Final = "color(30)"
GREY: Final = "color(243)"

STATES: Final = {
    "running": f"bold {CYAN}",
    "queued": AMBER,
    "scheduled": AMBER,
    "retrying": MAGENTA,
    "succeeded": GREEN,
    "failed": f"bold {RED}",
    "cancelled": "dim",
    "expired": "dim",
    "idle": "dim",
    "busy": f"bold {CYAN}",
    "starting": AMBER,
    "stopping": MAGENTA,
}
"""The states of jobs and workers."""
BARS: Final = {"bar.complete": CYAN, "bar.finished": GREEN, "bar.back": GREY, "bar.pulse": CYAN}
"""The colours of a progress bar, by the names that a theme of rich uses."""
