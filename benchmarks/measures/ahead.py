"""Tiny jobs beside a long job: how long the long job delays them."""

from __future__ import annotations

import random
import threading
import time

import work
from peers import WORKERS

from measures.base import Measure, Metric, percentile, started

BURST = 64
BURSTS_PER_SECOND = 50
LONG = 1.0


def measure_ahead(name, size):
    """Submit bursts of tiny jobs at a steady pace, and in the middle of one burst a job that takes a second.

    This is measured once without the long job, `size` times with a long job of the same function (so it looks like the tiny
    jobs before it runs), and `size` times with a long job of another function. The run without a long job shows whether a
    peer can keep the pace at all.
    """
    peer = started(name)
    run_bursts(peer, 10, None)
    metrics = {"alone": percentile(sorted(run_bursts(peer, 30, None)), 0.99)}
    delays = sorted(d for _ in range(size) for d in run_bursts(peer, 65, work.sleep_or_not))
    metrics |= {"p99": percentile(delays, 0.99), "max": delays[-1]}
    metrics["other"] = max(d for _ in range(size) for d in run_bursts(peer, 65, work.sleep))
    peer.close()
    return metrics, ""


def run_bursts(peer, bursts, long):
    """Return the time from submit to result of each tiny job, in milliseconds."""
    delays, left = [], threading.Semaphore(0)
    place = random.randrange(BURST)

    def submit_tiny():
        begun = time.perf_counter()

        def done(_):
            delays.append((time.perf_counter() - begun) * 1e3)
            left.release()

        peer.submit_notifying(done, work.sleep_or_not, 0)

    handle, start = None, time.monotonic()
    for burst in range(bursts):
        time.sleep(max(start + burst / BURSTS_PER_SECOND - time.monotonic(), 0.0))
        for number in range(BURST):
            if long and burst == 5 and number == place:
                handle = peer.submit(long, LONG)
            submit_tiny()
    for _ in range(bursts * BURST):
        left.acquire()
    if handle is not None:
        peer.result(handle)
    return delays


MEASURES = {
    "ahead": Measure(
        f"Tiny jobs ({BURST * BURSTS_PER_SECOND:,}/s) beside a job of {LONG:g} s, {WORKERS} workers: from submit to result",
        {
            "alone": Metric("p99 without it", "ms"), "p99": Metric("p99", "ms"), "max": Metric("max", "ms"),
            "other": Metric("max, it is of another function", "ms"),
        },
        measure_ahead,
        ["procjobs", "ProcessPoolExecutor(fork)", "multiprocessing.Pool", "loky", "pebble", "mpire"],
        3, 1, rounds=3, quick_repeats=1,
        quick_participants=["procjobs", "ProcessPoolExecutor(fork)"],
    ),
}  # fmt: skip
