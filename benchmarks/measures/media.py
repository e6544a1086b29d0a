"""Real work: thumbnails with Pillow and transcoding with PyAV, compared with the same calls in bare processes."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import work
from peers import PEERS

from measures.base import BENCHMARKS, OURS, Measure, Metric

EXAMPLES = BENCHMARKS.parent / "examples"
FLOOR = "floor: bare forks, split in advance"
PICTURE = (2400, 1800)
CLIP = {"width": 640, "height": 360, "rate": 25}


def make_pictures(directory, count):
    """Return the calls that make thumbnails of `count` pictures of the same size, and the modules to preload."""
    sys.path.append(str(EXAMPLES))
    import thumbnails

    first = Path(directory, "picture-0.jpg")
    thumbnails.make_sample(first, 1, PICTURE)
    calls = []
    for number in range(count):
        picture = Path(directory, f"picture-{number}.jpg")
        if number:
            picture.write_bytes(first.read_bytes())
        calls.append((thumbnails.make_thumbnail, picture, Path(directory, f"thumbnail-{number}.jpg"), 256))
    return calls, ("thumbnails",)


def make_clips(directory, count):
    """Return the calls that transcode `count` clips of a second from MPEG-4 to H.264, and the modules to preload."""
    import transcoding

    clip = f"{directory}/clip.mp4"
    transcoding.make_clip(clip, frames=CLIP["rate"], **CLIP)
    return [(transcoding.transcode, clip, f"{directory}/out-{n}.mp4") for n in range(count)], ("transcoding",)


def measure_work(make):
    """Return the measure for the calls that `make` returns: the wall time of all calls, with one worker and with two."""

    def measure(name, size):
        run = run_bare if name == FLOOR else run_in_pool
        with tempfile.TemporaryDirectory() as directory:
            calls, modules = make(directory, size)
            calls[0][0](*calls[0][1:])  # imports modules, and reads the files into the page cache
            return {label: run(name, calls, workers, modules) for workers, label in ((1, "one"), (2, "two"))}, ""

    return measure


def run_bare(_, calls, workers, __):
    """Fork a process for each worker; each process does its own share of the calls only."""
    begun, pids = time.perf_counter(), []
    for number in range(workers):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for function, *args in calls[number::workers]:
                    function(*args)
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    if any(os.waitpid(pid, 0)[1] for pid in pids):
        raise RuntimeError("the work failed")
    return time.perf_counter() - begun


def run_in_pool(name, calls, workers, modules):
    """Submit all calls and wait for all; the pool is started before, and its workers have imported the modules."""
    peer = PEERS[name](workers=workers, preload=modules)
    peer.start()
    peer.wait_all([peer.submit(work.import_modules, modules) for _ in range(20)])
    begun = time.perf_counter()
    peer.wait_all([peer.submit(*call) for call in calls])
    elapsed = time.perf_counter() - begun
    peer.close()
    return elapsed


ALL = [OURS, "ProcessPoolExecutor(fork)", "multiprocessing.Pool", "loky", "pebble", FLOOR]
QUICK = [OURS, "ProcessPoolExecutor(fork)", FLOOR]
BOTH = {"one": Metric("1 worker", "s"), "two": Metric("2 workers", "s")}
MEASURES = {
    "thumbnails": Measure(
        f"Thumbnails of this many pictures of {PICTURE[0]} x {PICTURE[1]} (Pillow, examples/thumbnails.py)",
        BOTH, measure_work(make_pictures), ALL, 24, 4, rounds=3, quick_repeats=1, quick_participants=QUICK, floor=FLOOR,
    ),
    "transcoding": Measure(
        f"Transcoding this many clips of 1 s, {CLIP['width']} x {CLIP['height']}, to H.264 (PyAV, one thread each)",
        BOTH, measure_work(make_clips), ALL, 20, 2, rounds=3, quick_repeats=1, quick_participants=QUICK, floor=FLOOR,
    ),
}  # fmt: skip
