"""Large and many arguments and results, and map over many tiny items."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time

import work
from peers import PEERS, WORKERS
from services import ADAPTERS

from measures.base import OURS, Measure, Metric, started

ARRAY_BYTES = 100_000_000
FRAME_ROWS = 780_000
BLOCK_BYTES = 64_000
BLOCKS_TOGETHER = 1_000
MEMORY_FLOOR = "floor: memfd writes"
PIPE_FLOOR = "floor: Pipe() and bare processes"
SWEEP = {f"{size // 1024} kB" if size < 2**20 else "1 MB": size for size in (4**n * 1024 for n in range(6))}
MAP_EACH = "procjobs, chunksize=1"
MAP_TUNED = "ProcessPoolExecutor(fork), tuned"
MAP_ONE = "ProcessPoolExecutor(fork), chunksize=1"
TUNED = (10, 100, 1_000, 10_000)


# A large argument, alone and echoed back ------------------------------------------------------------------------


def make_array():
    import numpy as np

    return np.ones(ARRAY_BYTES // 8)


def make_arrays():
    import numpy as np

    return [np.ones(1_000_000 // 8) for _ in range(100)]


def make_frame():
    """Return a frame with eight columns of numbers and times, 8 bytes each a row."""
    import numpy as np
    import pandas as pd

    columns = {f"x{n}": np.random.default_rng(n).random(FRAME_ROWS) for n in range(4)}
    columns |= {f"n{n}": np.arange(FRAME_ROWS) * n for n in range(3)}
    return pd.DataFrame({**columns, "at": pd.date_range("2020-01-01", periods=FRAME_ROWS, freq="s")})


def bytes_in(data):
    if isinstance(data, list):
        return sum(map(bytes_in, data))
    return int(data.memory_usage(index=False).sum()) if hasattr(data, "columns") else data.nbytes


def measure_payload(make):
    """Return the measure for the data that `make` returns; the floor is one write of its bytes, two for the echo."""

    def measure(name, size):
        data = make()
        if name == MEMORY_FLOOR:
            block = memoryview(bytearray(bytes_in(data)))
            write_to_memory_files(block, 1)
            one = [write_to_memory_files(block, 1) for _ in range(size)]
            two = [write_to_memory_files(block, 2) for _ in range(size)]
            return {"argument": one, "echo": two}, f"{len(block) / 1e6:.0f} MB"
        peer = started(name)
        peer.result(peer.submit(work.echo, data))
        metrics = {}
        for metric, function in (("argument", work.touch), ("echo", work.echo)):
            times = []
            for _ in range(size):
                begun = time.perf_counter()
                answer = peer.result(peer.submit(function, data))
                if metric == "echo":
                    work.touch(answer)
                times.append((time.perf_counter() - begun) * 1e3)
                del answer
            metrics[metric] = times
        peer.close()
        return metrics, ""

    return measure


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


# Many arguments of middle size ----------------------------------------------------------------------------------


def measure_blocks(name, size):
    """Measure jobs with blocks of bytes, a thousand at a time, as in a program that reads blocks of a file."""
    block = os.urandom(BLOCK_BYTES)
    if name == PIPE_FLOOR:
        pool = BarePipes(WORKERS, work.size_of)
        pool.call_all(block, 100)
        begun = time.perf_counter()
        for _ in range(size // BLOCKS_TOGETHER):
            pool.call_all(block, BLOCKS_TOGETHER)
    else:
        pool = started(name)
        pool.wait_all([pool.submit(work.size_of, block) for _ in range(100)])
        begun = time.perf_counter()
        for _ in range(size // BLOCKS_TOGETHER):
            pool.wait_all([pool.submit(work.size_of, block) for _ in range(BLOCKS_TOGETHER)])
    elapsed = time.perf_counter() - begun
    pool.close()
    return {"rate": size / elapsed}, ""


class BarePipes:
    """Processes that answer calls from their pipes, in turns: the minimum for pickled payloads.

    Only a few calls are under way at a time, because two full pipes would stop both ends.
    """

    under_way = 16

    def __init__(self, workers, function):
        context = multiprocessing.get_context("fork")
        pairs = [context.Pipe() for _ in range(workers)]
        self.ends = [ours for ours, _ in pairs]
        self.processes = [context.Process(target=self.serve, args=(end, function), daemon=True) for _, end in pairs]
        for process in self.processes:
            process.start()

    def serve(self, end, function):
        while True:
            end.send(function(end.recv()))

    def call_all(self, argument, count):
        for number in range(count + self.under_way):
            if number >= self.under_way:
                self.receive(number - self.under_way, count)
            if number < count:
                self.ends[number % len(self.ends)].send(argument)

    def receive(self, number, count):
        if number < count:
            self.ends[number % len(self.ends)].recv()

    def close(self):
        for process in self.processes:
            process.kill()


def measure_sweep(name, size):
    """Measure arrays of several sizes that are echoed one at a time."""
    import numpy as np

    if name == PIPE_FLOOR:
        pool = BarePipes(1, work.same)

        def call(array):
            pool.call_all(array, 1)

    else:
        pool = started(name)

        def call(array):
            pool.result(pool.submit(work.same, array))

    metrics = {}
    for label, bytes_ in SWEEP.items():
        array = np.ones(bytes_ // 8)
        times = []
        for turn in range(size + 20):
            begun = time.perf_counter()
            call(array)
            if turn >= 20:
                times.append((time.perf_counter() - begun) * 1e6)
        metrics[label] = statistics.median(times)
    pool.close()
    return metrics, ""


# map ------------------------------------------------------------------------------------------------------------


def measure_map(name, size):
    library = "procjobs" if name == MAP_EACH else name.partition(",")[0]
    peer = started(library)
    if name == MAP_TUNED:  # the best of several chunk sizes, which the user would have to try
        rates = {chunk: rate_of_map(peer, size, chunk) for chunk in TUNED}
        best = max(rates, key=rates.get)
        rate, note = rates[best], f"chunksize={best}, the best of {', '.join(map(str, TUNED))}"
    else:
        rate, note = rate_of_map(peer, size, 1 if name in (MAP_EACH, MAP_ONE) else None), ""
    peer.close()
    return {"rate": rate}, note


def rate_of_map(peer, size, chunk):
    """Return the items per second of one map; with `chunk` None the library chooses its chunks."""

    def run(items):
        if chunk is None:
            return peer.map(work.increment, items)
        return list(peer.pool.map(work.increment, items, chunksize=chunk))

    run(range(size // 50))
    begun = time.perf_counter()
    results = run(range(size))
    elapsed = time.perf_counter() - begun
    assert results[-1] == size
    return size / elapsed


ALL = list(PEERS)
ONCE = [name for name in ALL if name != "ProcessPoolExecutor(forkserver)"]
SOME = ["procjobs", "ProcessPoolExecutor(fork)", "multiprocessing.Pool"]
BOTH = {"argument": Metric("argument", "ms"), "echo": Metric("echo", "ms")}


def payload_measure(description, make):
    return Measure(
        f"{description} as argument (touched by the job), and echoed back (touched by both)",
        BOTH, measure_payload(make), [*ONCE, MEMORY_FLOOR], 3, 1, rounds=3,
        quick_repeats=1, quick_participants=[*SOME[:2], MEMORY_FLOOR], floor=MEMORY_FLOOR,
    )  # fmt: skip


MEASURES = {
    "map": Measure(
        "map of a tiny function over this many items: items per second",
        {"rate": Metric("items", "items/s", "more")}, measure_map,
        [OURS, MAP_EACH, "multiprocessing.Pool", MAP_TUNED, MAP_ONE, "loky", "billiard", "mpire"], 100_000, 20_000,
        quick_participants=[OURS, "multiprocessing.Pool", MAP_TUNED], quick_repeats=1,
    ),
    "array": payload_measure("An array of 100 MB", make_array),
    "frame": payload_measure("A pandas frame of 50 MB", make_frame),
    "arrays": payload_measure("A list of 100 arrays of 1 MB", make_arrays),
    "blocks": Measure(
        "Jobs with an argument of 64 kB (bytes), a thousand under way",
        {"rate": Metric("jobs", "jobs/s", "more")}, measure_blocks,
        [*ONCE, PIPE_FLOOR], 10_000, 2_000, quick_repeats=1, quick_participants=[*SOME, PIPE_FLOOR], floor=PIPE_FLOOR,
    ),
    "sweep": Measure(
        "Arrays of several sizes, echoed, one at a time: median from submit to result",
        {label: Metric(label, "us") for label in SWEEP}, measure_sweep,
        [*(name for name in ONCE if ADAPTERS[name].scale == 1), PIPE_FLOOR], 300, 50, quick_repeats=1,
        quick_participants=[*SOME, PIPE_FLOOR], floor=PIPE_FLOOR,
    ),
}  # fmt: skip
