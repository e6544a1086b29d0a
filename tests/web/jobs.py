"""Jobs of the tests of the web face."""

from __future__ import annotations

import time
from pathlib import Path

import procjobs
from tests.process.jobs import wait_for_file


def stepping(directory, total=3):
    """Report 1, 2, ... `total`, each once the file of that name is there."""
    for step in range(1, total + 1):
        wait_for_file(Path(directory) / str(step))
        procjobs.progress(step, total, f"step {step}")
    wait_for_file(Path(directory) / "end")
    return total


def failing(text):
    raise ValueError(text)


def counting(total):
    """Report as often as a page could see it, and more often."""
    for number in range(total):
        procjobs.progress(number, total)
        time.sleep(0.01)  # job
    return total
