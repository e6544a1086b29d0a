"""Durable jobs: the rate at which they are stored, run and recorded, and the time of one acknowledged submission."""

from __future__ import annotations

import statistics
import time

import work
from stores import EARLY, FULL, HUEY, LATE, PLAIN, PROCRASTINATE, SERVER, STORES

from measures.base import Measure, Metric


def measure_durable(name, size):
    peer = STORES[name]()
    peer.start()
    size = int(size * peer.scale)
    try:
        peer.wait_all([peer.submit(work.noop) for _ in range(100)])
        begun = time.perf_counter()
        peer.wait_all([peer.submit(work.noop) for _ in range(size)])
        rate = size / (time.perf_counter() - begun)
        latencies, handles = [], []
        for _ in range(300):
            begun = time.perf_counter()
            handles.append(peer.submit_durably(work.noop))
            latencies.append((time.perf_counter() - begun) * 1e6)
        peer.wait_all(handles)
    finally:
        peer.close()
    return {"rate": rate, "latency": statistics.median(latencies)}, f"{size:,} jobs"


MEASURES = {
    "durable": Measure(
        "Durable no-op jobs, submitted together and awaited; one submission until it is acknowledged",
        {
            "rate": Metric("jobs a second", "jobs/s", "more"),
            "latency": Metric("submission until acknowledged, median", "us"),
        },
        measure_durable,
        [PLAIN, FULL, SERVER, HUEY, EARLY, LATE, PROCRASTINATE],
        size=20_000,
        quick_size=5_000,
        timeout=120.0,
        rounds=3,
        quick_participants=[PLAIN, FULL, HUEY],
        ours=PLAIN,
    )
}
