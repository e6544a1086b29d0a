"""Waiting for a condition, also for programs that tests start."""

from __future__ import annotations

import time

DEADLINE = 30.0


def wait_until(condition, *, timeout=DEADLINE, dump=lambda: ""):
    """Wait for a condition, and fail loudly if it does not come true."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout:g} s in vain for {condition}\n{dump()}"
        time.sleep(0.002)  # job
    return value
