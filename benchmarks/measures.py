"""What is measured. Each function measures one participant once and returns {metric: value} and a note."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import relay
import work
from peers import PEERS, WORKERS

FLOOR = "floor"
FLOOR_BATCHED = "floor: bare relay, batches of 100"
FLOOR_EACH = "floor: bare relay, one send a job"
MANAGER = "Manager().dict()"
ARRAY_BYTES = 100_000_000
NEXT_RESULT_TIMEOUT = 5.0
NO_ANSWER = "has no answer after 1 s"
MEMORY_FLOOR = "floor: memfd writes"


@dataclass(frozen=True)
class Metric:
    """One number of a measure; `better` is "more" or "less"."""

    label: str
    unit: str
    better: str = "less"


@dataclass(frozen=True)
class Measure:
    """A table: its numbers, who takes part, how much is done, and how long one participant may take per repeat."""

    title: str
    metrics: dict[str, Metric]
    run: Callable[[str, int], tuple[dict[str, float | list[float]], str]]
    participants: list[str]
    size: int
    quick_size: int
    timeout: float = 60.0
    quick_repeats: int = 3


def started(name, **settings):
    """Return the participant's pool with both workers up and used."""
    peer = PEERS[name](**settings)
    peer.start()
    peer.wait_all([peer.submit(work.sleep, 0.05) for _ in range(WORKERS)])
    peer.wait_all([peer.submit(work.noop) for _ in range(200)])
    return peer


def occupy(peer, directory):
    """Return WORKERS sleeping jobs that run side by side, and the pids of their workers."""
    jobs, pids = {}, {}
    for attempt in range(3 * WORKERS):  # mpire may give a job to a worker that is busy while another is idle
        path = f"{directory}/{attempt}"
        jobs[path] = peer.submit(work.tell_pid_and_sleep, path, 60)
        deadline = time.monotonic() + 1.0
        while path not in pids and time.monotonic() < deadline:
            for known in jobs:
                if known not in pids and os.path.exists(known):
                    with open(known) as file:
                        pids[known] = int(file.read())
            time.sleep(0.001)
        if len(pids) == WORKERS:
            return [jobs[known] for known in pids], list(pids.values())
    raise RuntimeError(f"{len(jobs)} jobs, but only {len(pids)} workers at work")


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
    peer = started(name)
    submit, noop = peer.submit, work.noop
    begun = time.perf_counter()
    peer.wait_all([submit(noop) for _ in range(size)])
    elapsed = time.perf_counter() - begun
    peer.close()
    return {"rate": size / elapsed}, ""


def measure_round_trip(name, size):
    if name == FLOOR_EACH:
        pool = relay.BareRelay(WORKERS)
        call = pool.call
    else:
        pool = started(name)

        def call():
            pool.result(pool.submit(work.noop))

    for _ in range(100):
        call()
    times = []
    for _ in range(size):
        begun = time.perf_counter()
        call()
        times.append((time.perf_counter() - begun) * 1e6)
    pool.close()
    times.sort()
    return {"p50": statistics.median(times), "p99": times[int(len(times) * 0.99)]}, ""


def measure_submit(name, size):
    """Both workers are kept busy and as many jobs already wait as are then submitted with the clock running."""
    peer = started(name)
    with tempfile.TemporaryDirectory() as directory:
        release = f"{directory}/release"
        jobs = [peer.submit(work.hold, release) for _ in range(WORKERS)]
        jobs += [peer.submit(work.noop) for _ in range(size)]
        time.sleep(0.3)
        times = []
        for _ in range(size):
            begun = time.perf_counter_ns()
            jobs.append(peer.submit(work.noop))
            times.append(time.perf_counter_ns() - begun)
        with open(release, "w"):
            peer.wait_all(jobs)
    peer.close()
    return {"mean": statistics.fmean(times) / 1e3, "p50": statistics.median(times) / 1e3}, ""


def measure_progress(name, size):
    if name == FLOOR:
        return {"write": work.report_bare(size * 10)}, "struct.pack_into, no protocol"
    if name == MANAGER:
        with multiprocessing.Manager() as manager, multiprocessing.get_context("fork").Pool(WORKERS) as pool:
            shared = manager.dict()
            pool.apply(work.report_to_dict, (shared, 100))
            return {"write": pool.apply(work.report_to_dict, (shared, size))}, "written in a multiprocessing.Pool job"
    peer = started("procjobs")
    function = work.report_message if "message" in name else work.report_progress
    peer.result(peer.submit(function, 100))
    cost = peer.result(peer.submit(function, size * 10))
    peer.close()
    return {"write": cost}, ""


def measure_status(name, size):
    if name == FLOOR:
        return {"read": work.read_bare(size * 10)}, "struct.unpack_from, no protocol"
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as other:
        if name == MANAGER:
            with multiprocessing.Manager() as manager:
                shared = manager.dict(job=(40, 100))
                return {"read": other.submit(work.read_dict, shared, size).result()}, ""
        import procjobs

        with tempfile.TemporaryDirectory() as directory:
            release = f"{directory}/release"
            pool = procjobs.Pool("benchmark", workers=WORKERS, directory=directory)
            job = pool.submit(work.report_once_and_hold, release)
            while job.progress() is None:
                time.sleep(0.001)
            cost = other.submit(work.read_status, "benchmark", directory, job.id, size).result()
            with open(release, "w"):
                job.result()
            pool.stop()
        return {"read": cost}, "named pool, job running"


def measure_array(name, size):
    import numpy as np

    if name == MEMORY_FLOOR:
        data = memoryview(np.ones(ARRAY_BYTES // 8)).cast("B")
        write_to_memory_files(data, 1)
        one = [write_to_memory_files(data, 1) for _ in range(size)]
        two = [write_to_memory_files(data, 2) for _ in range(size)]
        return {"argument": one, "echo": two}, "one write of the bytes; two for the echo"
    array = np.ones(ARRAY_BYTES // 8)
    peer = started(name)
    peer.result(peer.submit(work.touch, array))
    metrics = {}
    for metric, function in (("argument", work.touch), ("echo", work.echo)):
        times = []
        for _ in range(size):
            begun = time.perf_counter()
            answer = peer.result(peer.submit(function, array))
            if metric == "echo":
                work.touch(answer)
            times.append((time.perf_counter() - begun) * 1e3)
            del answer
        metrics[metric] = times
    peer.close()
    return metrics, ""


def write_to_memory_files(data, times):
    begun = time.perf_counter()
    fds = [os.memfd_create("floor") for _ in range(times)]
    for fd in fds:
        left = data
        while left:
            left = left[os.write(fd, left) :]
    elapsed = time.perf_counter() - begun
    for fd in fds:
        os.close(fd)
    return elapsed * 1e3


def measure_kill(name, _):
    """Both workers run a job; one is killed; a job submitted at once has to be done by its successor."""
    peer = started(name)
    with tempfile.TemporaryDirectory() as directory:
        jobs, pids = occupy(peer, directory)
        begun = time.perf_counter()
        os.kill(pids[0], signal.SIGKILL)
        outcome = wait_for_next_result(peer)
        elapsed = (time.perf_counter() - begun) * 1e3
        killed = describe_end(peer, jobs[0])
        neighbour = "runs on" if describe_end(peer, jobs[1], 0.05) == NO_ANSWER and is_alive(pids[1]) else "is lost"
    note = f"killed job: {killed}; the other job {neighbour}"
    if outcome == "":
        return {"next": elapsed}, note
    if outcome == "new pool":
        return {"next": elapsed}, f"with a new pool from get_reusable_executor(); {note}"
    raise RuntimeError(f"{outcome}; {note}")


def wait_for_next_result(peer):
    """Return "" when a job is done, "new pool" if that took another pool, or what is wrong."""
    deadline, outcome = time.perf_counter() + NEXT_RESULT_TIMEOUT, ""
    while True:
        try:
            peer.result(peer.submit(work.noop), NEXT_RESULT_TIMEOUT)
        except (TimeoutError, concurrent.futures.TimeoutError, multiprocessing.TimeoutError):
            return f"hangs: no result within {NEXT_RESULT_TIMEOUT:g} s"
        except Exception as error:  # noqa: BLE001 - whatever a peer says when it is broken
            if not peer.replaces_pool or time.perf_counter() > deadline:
                return f"pool broken: {type(error).__name__}"
            outcome = "new pool"
            with contextlib.suppress(Exception):
                peer.start()
        else:
            return outcome


def describe_end(peer, handle, timeout=1.0):
    try:
        peer.result(handle, timeout)
    except (TimeoutError, concurrent.futures.TimeoutError, multiprocessing.TimeoutError):
        return NO_ANSWER
    except BaseException as error:  # noqa: BLE001 - whatever a peer says, CancelledError too
        return f"raises {type(error).__name__}"
    return "returns"


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def measure_timeout(name, size):
    peer = started(name, with_timeouts=True)
    lateness, errors = [], set()
    for _ in range(size):
        time.sleep(random.random() * 0.1)  # not in step with a peer that polls
        begun = time.perf_counter()
        try:
            peer.result(peer.submit_limited(0.3, work.sleep, 3))
        except Exception as error:  # noqa: BLE001 - each peer has its own
            errors.add(type(getattr(error, "exc", error)).__name__)
        else:
            raise RuntimeError("the job was not stopped")
        lateness.append((time.perf_counter() - begun - 0.3) * 1e3)
    return {"late": statistics.median(lateness), "worst": max(lateness)}, " ".join(sorted(errors))


ALL = list(PEERS)
MEASURES = {
    "throughput": Measure(
        "No-op jobs per second: submit all, then wait for all",
        {"rate": Metric("jobs", "jobs/s", "more")}, measure_throughput,
        [*ALL, FLOOR_BATCHED, FLOOR_EACH], 20_000, 5_000,
    ),
    "roundtrip": Measure(
        "Submit to result, one job at a time",
        {"p50": Metric("p50", "us"), "p99": Metric("p99", "us")}, measure_round_trip,
        [*ALL, FLOOR_EACH], 2_000, 500,
    ),
    "submit": Measure(
        "Cost of submit() in the caller, the queue being long and the workers busy",
        {"mean": Metric("mean", "us"), "p50": Metric("p50", "us")}, measure_submit, ALL, 5_000, 1_000,
    ),
    "progress": Measure(
        "Cost of one report of progress inside a job",
        {"write": Metric("write", "us")}, measure_progress,
        ["procjobs", "procjobs, with a message", MANAGER, FLOOR], 5_000, 2_000,
    ),
    "status": Measure(
        "Cost of asking for a job's status by id, from another process",
        {"read": Metric("read", "us")}, measure_status, ["procjobs", MANAGER, FLOOR], 5_000, 2_000,
    ),
    "array": Measure(
        "An array of 100 MB as argument (touched by the job), and echoed back (touched by both)",
        {"argument": Metric("argument", "ms"), "echo": Metric("echo", "ms")}, measure_array,
        [*(name for name in ALL if name != "ProcessPoolExecutor(forkserver)"), MEMORY_FLOOR], 1, 3, quick_repeats=1,
    ),
    "kill": Measure(
        "SIGKILL of a worker that runs a job, all others busy: until the next job's result",
        {"next": Metric("next result", "ms")}, measure_kill, ALL, 1, 1, timeout=15.0,
    ),
    "timeout": Measure(
        "A timeout of 0.3 s: how much later the caller knows",
        {"late": Metric("median", "ms"), "worst": Metric("worst", "ms")}, measure_timeout,
        [name for name in ALL if PEERS[name].has_timeout], 5, 1,
    ),
}  # fmt: skip
