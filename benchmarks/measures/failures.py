"""The time until a killed worker is replaced, and the delay of a timeout."""

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

import work
from peers import PEERS, WORKERS

from measures.base import Measure, Metric, started

NEXT_RESULT_TIMEOUT = 5.0
NO_ANSWER = "has no answer after 1 s"


def occupy(peer, directory):
    """Return WORKERS sleeping jobs that run at the same time, and the pids of their workers."""
    jobs, pids = {}, {}
    for attempt in range(3 * WORKERS):  # mpire may give a job to a worker that is busy while another is idle
        path = f"{directory}/{attempt}"
        jobs[path] = peer.submit(work.write_pid_and_sleep, path, 60)
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


def measure_kill(name, _):
    """Kill one of two busy workers, and submit a job at once, which only the successor of the worker can run."""
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
    """Return "" when a job is done, "new pool" if it needed a new pool, or a description of the failure."""
    deadline, outcome = time.perf_counter() + NEXT_RESULT_TIMEOUT, ""
    while True:
        try:
            peer.result(peer.submit(work.noop), NEXT_RESULT_TIMEOUT)
        except (TimeoutError, concurrent.futures.TimeoutError, multiprocessing.TimeoutError):
            return f"hangs: no result within {NEXT_RESULT_TIMEOUT:g} s"
        except Exception as error:  # noqa: BLE001 - a broken peer may raise anything
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
    except BaseException as error:  # noqa: BLE001 - a peer may raise anything, CancelledError too
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
        time.sleep(random.random() * 0.1)  # so that the jobs are not in step with a peer that polls
        begun = time.perf_counter()
        try:
            peer.result(peer.submit_limited(0.3, work.sleep, 3))
        except Exception as error:  # noqa: BLE001 - each peer raises its own exception
            errors.add(type(getattr(error, "exc", error)).__name__)
        else:
            raise RuntimeError("the job was not stopped")
        lateness.append((time.perf_counter() - begun - 0.3) * 1e3)
    return {"late": statistics.median(lateness), "worst": max(lateness)}, " ".join(sorted(errors))


ALL = list(PEERS)
MEASURES = {
    "kill": Measure(
        "SIGKILL of a worker that runs a job, all others busy: until the next job's result",
        {"next": Metric("next result", "ms")}, measure_kill, ALL, 1, 1, timeout=15.0,
        quick_repeats=1, quick_participants=["procjobs", "ProcessPoolExecutor(fork)", "pebble"],
    ),
    "timeout": Measure(
        "A timeout of 0.3 s: how much later the caller knows",
        {"late": Metric("median", "ms"), "worst": Metric("worst", "ms")}, measure_timeout,
        [name for name in ALL if PEERS[name].has_timeout], 5, 3, quick_repeats=1,
        quick_participants=["procjobs", "pebble"],
    ),
}  # fmt: skip
