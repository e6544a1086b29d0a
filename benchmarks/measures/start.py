"""The cost of a start: the time to the first result, to attach and to import, and the memory of idle workers."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time

import machine
import psutil
import work
from peers import PEERS
from services import ADAPTERS, CELERY

from measures.base import Companion, Measure, Metric, named_pool

PRELOAD = ("numpy", "PIL.Image")
FLOOR = "floor: os.fork() and a byte back"


def measure_start(name, _):
    """Measure a new pool up to its first result. Its library is imported before; lazy parts of the pool are included."""
    if name == FLOOR:
        return {"first": [time_fork() for _ in range(20)]}, ""
    peer = PEERS[name]()
    if peer.module:
        importlib.import_module(peer.module)
    begun = time.perf_counter()
    peer.start()
    peer.result(peer.submit(work.noop))
    elapsed = (time.perf_counter() - begun) * 1e3
    peer.close()
    return {"first": elapsed}, ""


def time_fork():
    begun = time.perf_counter()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, b".")
        os._exit(0)
    os.read(reading, 1)
    elapsed = (time.perf_counter() - begun) * 1e3
    os.waitpid(pid, 0)
    os.close(reading)
    os.close(writing)
    return elapsed


def measure_attach(_, size):
    """Measure a second process that attaches to a running named pool; it has imported procjobs before."""
    attached, first = [], []
    with named_pool() as (pool, _):
        pool.submit(work.noop).result()
        for _ in range(size):
            companion = Companion("attach_timed", pool.name)
            for times, value in zip((attached, first), companion.read().split(), strict=True):
                times.append(float(value))
            companion.close()
    return {"attached": attached, "first": first}, ""


def measure_import(name, size):
    """Return the time of an interpreter that imports the library, less an empty one; the minimum of several, in turns."""
    lazy = {CELERY: "from celery import Celery", "procjobs": "from procjobs import Pool"}  # these packages import lazily
    code = lazy.get(name) or f"import {ADAPTERS[name].module}"
    bare, full = [], []
    for _ in range(size + 1):
        bare.append(time_interpreter("pass"))
        full.append(time_interpreter(code))
    return {"import": min(full[1:]) - min(bare[1:])}, code


def time_interpreter(code):
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return (time.perf_counter() - begun) * 1e3


def measure_memory(name, _):
    """Measure the proportional set size that a pool adds (with the growth of the caller), and that of one worker."""
    work.import_modules(PRELOAD)
    peer = PEERS[name](preload=PRELOAD)
    before = machine.memory_of([os.getpid()])["Pss"]
    peer.start()
    peer.wait_all([peer.submit(work.import_modules, PRELOAD) for _ in range(20)])
    jobs = [peer.submit(work.sleep_and_return_pid, 0.2) for _ in range(peer.workers)]
    workers = {peer.result(job) for job in jobs}
    time.sleep(0.5)
    others = {
        child.pid for root in [os.getpid(), *peer.pids()] for child in psutil.Process(root).children(recursive=True)
    }
    everything = {os.getpid(), *peer.pids(), *others}
    assert workers <= others and len(workers) == peer.workers, (workers, others)  # noqa: PT018
    added = machine.memory_of(everything)["Pss"] - before
    each = machine.memory_of(workers)["Pss"] / peer.workers
    peer.close()
    note = f"{len(everything) - 1 - peer.workers} more processes"
    return {"added": added / peer.workers / 1e6, "each": each / 1e6}, note


ALL = list(PEERS)
SOME = ["procjobs", "ProcessPoolExecutor(fork)", "ProcessPoolExecutor(forkserver)", "multiprocessing.Pool", "loky"]
MEASURES = {
    "start": Measure(
        "A pool of one's own, from the constructor to the first result",
        {"first": Metric("first result", "ms")}, measure_start, [*ALL, FLOOR], 1, 1,
        quick_repeats=1, quick_participants=[*SOME[:4], FLOOR],
    ),
    "attach": Measure(
        "A named pool that runs already: the constructor in another process, and from there to its first result",
        {"attached": Metric("attached", "ms"), "first": Metric("first result", "ms")},
        measure_attach, ["procjobs"], 3, 3, quick_repeats=1,
    ),
    "import": Measure(
        "import, in a fresh interpreter",
        {"import": Metric("import", "ms")}, measure_import,
        [*(name for name in ALL if PEERS[name].module), CELERY], 3, 3, quick_repeats=1,
        quick_participants=["procjobs", "ProcessPoolExecutor(fork)", "loky", CELERY],
    ),
    "memory": Measure(
        "Memory of idle workers that have numpy and Pillow imported (PSS)",
        {"added": Metric("the pool adds, per worker", "MB"), "each": Metric("one worker", "MB")},
        measure_memory, SOME, 1, 1, rounds=3, quick_repeats=1, quick_participants=SOME[:2],
    ),
}  # fmt: skip
