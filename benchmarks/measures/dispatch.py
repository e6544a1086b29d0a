"""Small jobs: their rate, the round trip of one job, the cost of submit(), the cost of a long queue."""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import time
from pathlib import Path

import machine
import relay
import work
from peers import PEERS, WORKERS
from services import ADAPTERS, CELERY, DIRTY

from measures.base import OURS, Companion, Measure, Metric, named_pool, percentile, started

FLOOR_BATCHED = "floor: bare relay, batches of 100"
FLOOR_EACH = "floor: bare relay, one send a job"
CLIENTS = 4
DEEP, SHORT = "procjobs", "procjobs, short queue"
SHORT_QUEUE = 10_000


def measure_throughput(name, size):
    if name in (FLOOR_BATCHED, FLOOR_EACH):
        pool = relay.BareRelay(WORKERS)
        batch = 100 if name == FLOOR_BATCHED else 1
        pool.call_all(200, batch)
        begun = time.perf_counter()
        pool.call_all(size, batch)
        elapsed = time.perf_counter() - begun
        pool.close()
        return {"rate": size / elapsed}, ""
    size = int(size * ADAPTERS[name].scale)
    peer = started(name)
    begun = time.perf_counter()
    peer.run_all(work.noop, size)
    elapsed = time.perf_counter() - begun
    peer.close()
    note = f"{size:,} jobs" if peer.scale < 1 else ""
    if name == DIRTY:
        note += f", called from {peer.threads} threads: it has no submit()"
    return {"rate": size / elapsed}, note


def measure_clients(name, size):
    """Measure from the common start to the last result of the last client."""
    if name == FLOOR_BATCHED:
        return {"rate": size / run_bare_clients(size // CLIENTS)}, ""
    if name != OURS:
        clients = [Companion("submit_share", name, "", size // CLIENTS) for _ in range(CLIENTS)]
        elapsed = run_clients(clients)
        return {"rate": size / elapsed}, f"{CLIENTS} pools of {WORKERS} workers: each client needs its own"
    with named_pool() as (pool, _):
        pool.submit(work.noop).result()
        elapsed = run_clients([Companion("submit_share", name, pool.name, size // CLIENTS) for _ in range(CLIENTS)])
    return {"rate": size / elapsed}, f"one pool of {WORKERS} workers, shared"


def run_clients(clients):
    for client in clients:
        client.read()
    begun = time.monotonic()
    for client in clients:
        client.write("go")
    elapsed = max(float(client.read()) for client in clients) - begun
    for client in clients:
        client.close()
    return elapsed


def run_bare_clients(share):
    """Fork the clients of one relay, start them together, and return the time until the last one is done."""
    pool = relay.BareRelay(WORKERS, clients=CLIENTS)
    start, done = os.pipe(), os.pipe()
    for number in range(CLIENTS):

        def run(number=number):
            pool.use(number)
            pool.call_all(200, 100)
            os.write(done[1], b".")
            os.read(start[0], 1)
            pool.call_all(share, 100)
            os.write(done[1], b".")
            time.sleep(60)  # the relay ends with its first client

        pool.fork(run, [])
    read_exactly(done[0], CLIENTS)
    begun = time.perf_counter()
    os.write(start[1], b"." * CLIENTS)
    read_exactly(done[0], CLIENTS)
    elapsed = time.perf_counter() - begun
    pool.close()
    return elapsed


def read_exactly(fd, size):
    while size:
        size -= len(os.read(fd, size))


def measure_round_trip(name, size):
    if name == FLOOR_EACH:
        pool = relay.BareRelay(WORKERS)
        call = pool.call
    else:
        pool = started(name)
        size = int(size * pool.scale)

        def call():
            pool.result(pool.submit(work.noop))

        if name == DIRTY:

            def call():
                pool.execute("noop")

    for _ in range(min(100, size)):
        call()
    times = []
    for _ in range(size):
        begun = time.perf_counter()
        call()
        times.append((time.perf_counter() - begun) * 1e6)
    pool.close()
    times.sort()
    return {"p50": statistics.median(times), "p99": percentile(times, 0.99)}, ""


def measure_submit(name, size):
    """Measure submit() while all workers are busy and up to `size` jobs wait. The process ends without draining the pool."""
    if name == DIRTY:
        raise RuntimeError("has no submit: execute() waits for the result")
    size = int(size * ADAPTERS[name].scale)
    peer = started(name, max_queued=2 * size)
    timed = min(size // 20, 5_000)
    with tempfile.TemporaryDirectory() as directory:
        jobs = [peer.submit(work.hold, f"{directory}/release") for _ in range(WORKERS)]
        time.sleep(0.2)
        times = time_submits(peer, jobs, timed)
        jobs += [peer.submit(work.noop) for _ in range(size - len(jobs))]
        time.sleep(0.3)
        deep = time_submits(peer, jobs, timed)
        if hasattr(peer, "end"):  # the peer's server would outlive this process
            jobs.clear()  # Celery's results need Redis at their end
            Path(directory, "release").touch()
            peer.end()
    metrics = {"mean": statistics.fmean(times), "p50": statistics.median(times), "deep": statistics.fmean(deep)}
    return metrics, f"{size:,} queued" if peer.scale < 1 else ""


def time_submits(peer, jobs, count):
    """Return the times of `count` submits in microseconds."""
    times = []
    for _ in range(count):
        begun = time.perf_counter_ns()
        jobs.append(peer.submit(work.noop))
        times.append((time.perf_counter_ns() - begun) / 1e3)
    return times


def measure_depth(name, size):
    """Queue `size` jobs behind busy workers, measure the supervisor's memory, let the jobs run; or do so in short queues."""
    with named_pool(max_queued=2 * size) as (pool, directory):
        for job in [pool.submit(work.noop) for _ in range(2_000)]:
            job.result()
        depth = size if name == DEEP else SHORT_QUEUE
        rates, metrics = [], {}
        for turn in range(1 if name == DEEP else 2):
            release = f"{directory}/release-{turn}"
            before = machine.resident_of(pool.stats().supervisor_pid)
            jobs = [pool.submit(work.hold, release) for _ in range(WORKERS)]
            jobs += [pool.submit(work.noop) for _ in range(depth)]
            jobs[-1].wait_accepted(60)
            after = machine.resident_of(pool.stats().supervisor_pid)
            metrics = {
                "anon": (after["RssAnon"] - before["RssAnon"]) / depth,
                "rows": (after["RssShmem"] - before["RssShmem"]) / depth,
            }
            gc.collect()
            gc.freeze()  # otherwise this process's garbage collector would scan a million handles during the measure
            begun = time.perf_counter()
            with open(release, "w"):
                jobs[-1].result()
            rates.append(depth / (time.perf_counter() - begun))
            del jobs
            gc.unfreeze()
        if name != DEEP:
            metrics = {}  # a short queue reuses pages of earlier rounds, so its memory cannot be measured
    return {"rate": statistics.median(rates), **metrics}, f"{depth:,} queued at a time"


ALL = list(PEERS)
SOME = ["procjobs", "ProcessPoolExecutor(fork)", "multiprocessing.Pool"]
MEASURES = {
    "throughput": Measure(
        "No-op jobs per second: submit all, then wait for all",
        {"rate": Metric("jobs", "jobs/s", "more")}, measure_throughput,
        [*ALL, CELERY, DIRTY, FLOOR_BATCHED, FLOOR_EACH], 20_000, 10_000,
        quick_repeats=1, quick_participants=[*SOME, CELERY, DIRTY, FLOOR_BATCHED], floor=FLOOR_BATCHED,
    ),
    "clients": Measure(
        f"No-op jobs per second from {CLIENTS} client processes at once",
        {"rate": Metric("jobs", "jobs/s", "more")}, measure_clients,
        [*(name for name in ALL if name != "deadpool"), FLOOR_BATCHED], 40_000, 8_000,
        quick_participants=[*SOME, FLOOR_BATCHED], quick_repeats=1, floor=FLOOR_BATCHED,
    ),
    "roundtrip": Measure(
        "Submit to result, one job at a time",
        {"p50": Metric("p50", "us"), "p99": Metric("p99", "us")}, measure_round_trip,
        [*ALL, CELERY, DIRTY, FLOOR_EACH], 2_000, 500,
        quick_repeats=1, quick_participants=[*SOME, CELERY, DIRTY, FLOOR_EACH], floor=FLOOR_EACH,
    ),
    "submit": Measure(
        "Cost of submit() in the caller, all workers busy: with an empty queue, and when this many wait",
        {"mean": Metric("mean", "us"), "p50": Metric("p50", "us"), "deep": Metric("mean, long queue", "us")},
        measure_submit, [*ALL, CELERY, DIRTY], 100_000, 20_000, quick_repeats=1,
        quick_participants=SOME,
    ),
    "depth": Measure(
        "A long queue: how fast it drains, and the supervisor's memory for each job in it",
        {
            "rate": Metric("drained", "jobs/s", "more"), "anon": Metric("memory per job", "bytes"),
            "rows": Metric("shared table per job", "bytes"),
        },
        measure_depth, [DEEP, SHORT], 1_000_000, 100_000, timeout=300.0, rounds=2, quick_repeats=1,
    ),
}  # fmt: skip
