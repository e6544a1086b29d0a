"""Web requests beside a busy pool: the delay of the requests, and the number of jobs done meanwhile.

The server is gunicorn with three threaded web workers. The client has six connections. Each connection sends a request,
waits for the answer, pauses for 20 ms on average, and sends the next request: about 200 to 300 requests a second, a
fraction of one CPU. The client raises its own priority if it may (as root), so that it measures the server's delays and
not its own. Jobs are loops in pure Python of about 0.2 s. They are counted in twentieths, so that jobs at the edges of the
window count in part.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import work

from measures.base import BENCHMARKS, Measure, Metric, percentile

WEB_WORKERS, CONNECTIONS, THINK_SECONDS = 3, 6, 0.02
START_TIMEOUT, SETTLE_SECONDS = 20.0, 1.0
IDLE = "no jobs"
NICES = (0, 5, 10, 19)


def ours(workers, nice):
    return f"procjobs, workers={workers}, nice={nice}"


def executor(workers):
    return f"ProcessPoolExecutor({workers}) per web worker"


KINDS = {IDLE: {"kind": "idle", "workers": 0, "nice": 0}}
KINDS |= {ours(n, nice): {"kind": "procjobs", "workers": n, "nice": nice} for n in (2, 1) for nice in NICES}
KINDS |= {executor(n): {"kind": "executor", "workers": n, "nice": 0} for n in (2, 1)}


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, so that the measure does not include TCP."""

    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def get(self, page):
        self.request("GET", page)
        response = self.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"the web worker answers {response.status}")
        return response.read()


def measure_web(name, seconds):
    try:
        import gunicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise RuntimeError("gunicorn is not installed") from error
    kind = KINDS[name]
    with tempfile.TemporaryDirectory() as directory:
        progress = Path(directory, "progress")
        progress.touch()
        # More jobs than the CPUs can do in the time. A web worker with a pool of its own needs all of them for itself.
        enough = int((seconds + SETTLE_SECONDS + START_TIMEOUT / 2) * 10 * (os.cpu_count() or 1))
        share = {"idle": 0, "procjobs": enough // WEB_WORKERS, "executor": enough}[kind["kind"]]
        settings = {**kind, "name": f"benchmark-{os.getpid()}", "progress": str(progress), "jobs": share}
        with gunicorn_running(directory, settings) as path, prefer_this_process() as preferred:
            wait_for_web_workers(path)
            wait_for_jobs(progress, kind)
            time.sleep(SETTLE_SECONDS)
            slices, begun = progress.stat().st_size, time.monotonic()
            times = time_requests(path, seconds)
            jobs = (progress.stat().st_size - slices) / work.SLICES / (time.monotonic() - begun)
    times.sort()
    note = f"{len(times) / seconds:.0f} requests/s"
    if not preferred:
        note += "; the client is not preferred: not root"
    metrics = {"p50": statistics.median(times), "p99": percentile(times, 0.99)}
    return metrics if name == IDLE else {**metrics, "jobs": jobs}, note


@contextlib.contextmanager
def gunicorn_running(directory, settings):
    path = f"{directory}/web"
    options = ["--bind", f"unix:{path}", "--workers", str(WEB_WORKERS), "--threads", "4", "--keep-alive", "60"]
    options += ["--config", "web_app.py", "--log-level", "warning", "--no-control-socket"]
    environment = {**os.environ, "PROCJOBS_BENCHMARK_WEB": json.dumps(settings)}
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", *options, "web_app:application"], cwd=BENCHMARKS, env=environment
    )
    try:
        yield path
    finally:
        if settings["kind"] == "procjobs":
            import procjobs

            procjobs.Pool(settings["name"]).stop()
        # The web workers would wait for all jobs of their executors. So they and their children are killed.
        for pid in reversed(descendants(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def descendants(pid):
    import psutil

    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


@contextlib.contextmanager
def prefer_this_process():
    """Raise this process's priority, if that is allowed."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def wait_for_web_workers(path):
    """Return when every web worker has answered, and so has submitted its jobs."""
    seen, deadline = set(), time.monotonic() + START_TIMEOUT
    while len(seen) < WEB_WORKERS:
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(UnixConnection(path)) as one:
            seen.add(one.get("/pid"))
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {len(seen)} web workers answer")
        time.sleep(0.01)


def wait_for_jobs(progress, kind):
    deadline = time.monotonic() + START_TIMEOUT
    while kind["kind"] != "idle" and progress.stat().st_size < work.SLICES * kind["workers"]:
        if time.monotonic() > deadline:
            raise RuntimeError("no jobs run")
        time.sleep(0.02)


def time_requests(path, seconds):
    """Send requests on all connections for `seconds`, and return the times from request to answer in milliseconds."""
    times, errors = [], []
    end = time.monotonic() + seconds

    def ask():
        try:
            with contextlib.closing(UnixConnection(path)) as connection:
                while time.monotonic() < end:
                    time.sleep(random.expovariate(1 / THINK_SECONDS))
                    begun = time.perf_counter()
                    connection.get("/")
                    times.append((time.perf_counter() - begun) * 1e3)
        except Exception as error:  # noqa: BLE001 - the main thread raises it
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return times


MEASURES = {
    "web": Measure(
        f"Cheap requests to {WEB_WORKERS} web workers while the pool is saturated with jobs of 0.2 s (seconds measured)",
        {"p50": Metric("request p50", "ms"), "p99": Metric("request p99", "ms"), "jobs": Metric("jobs", "jobs/s", "more")},
        measure_web, list(KINDS), 10, 2, rounds=3, quick_repeats=1, ours=ours(2, 0), floor=IDLE,
        quick_participants=[IDLE, ours(2, 0), executor(2)],
    ),
}  # fmt: skip
