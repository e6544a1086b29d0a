"""The jobs of `procjobs demo`."""

from __future__ import annotations

import contextlib
import os
import signal

import procjobs
from procjobs.clock import monotonic, sleep


def search_primes(below: int, seconds: float) -> int:
    """Count primes slowly enough to be watched."""
    found = 0
    steps = 40
    for step in procjobs.track(range(steps), message="counting primes"):
        until = monotonic() + seconds / steps
        for n in range(step * below // steps, (step + 1) * below // steps):
            found += n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))
        sleep(max(until - monotonic(), 0.0))
    return found


def crash_half_way(steps: int = 20) -> None:
    """Die of a segmentation fault, like a job that meets a bug in a C library."""
    for step in range(steps):
        procjobs.progress(step, steps, "about to crash")
        sleep(0.08)
        if step == steps // 2:
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            signal.raise_signal(signal.SIGSEGV)


def never_end() -> None:
    """Hang, and ignore its interruption."""
    procjobs.progress(1, 3, "hangs")
    while True:
        with contextlib.suppress(procjobs.JobTimeout):
            sleep(60)


def fail_once(marker: str) -> str:
    """Raise at the first attempt, succeed at the second."""
    procjobs.progress(0, 1, "first attempt")
    if not os.path.exists(marker):
        with open(marker, "w"):
            pass
        sleep(0.8)
        raise ConnectionError("the network was away")
    procjobs.progress(1, 1, "second attempt")
    return "the second attempt worked"
