"""The colours, each readable on a black and on a white terminal alike.

The sixteen that a terminal can choose are not: what passes for yellow, green or cyan on black has a contrast of 1.6 to 2.1
on white, and rich's bars are drawn on a dark grey that on white stands out more than they do. These are of the fixed 240
others, with a contrast of at least 3 against both, the least that WCAG 2.1 (1.4.11) asks of what is not running text.
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
"""What rich calls the parts of a progress bar, as a theme has them."""
