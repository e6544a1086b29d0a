"""The class Measure, and helpers that measures share."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import work
from peers import WORKERS
from services import ADAPTERS

BENCHMARKS = Path(__file__).parents[1]
OURS = "procjobs"


@dataclass(frozen=True)
class Metric:
    """One number of a measure; `better` is "more" or "less"."""

    label: str
    unit: str
    better: str = "less"


@dataclass(frozen=True)
class Measure:
    """A table of results: its metrics, its participants, the size of the work, and the timeout for one repeat.

    `run` measures one participant once and returns {metric: value or values} and a note. `ours` is the participant that
    the others are compared with. `floor`, if any, is the participant that does only the necessary minimum. `--quick` uses
    `quick_participants` and one round with `quick_repeats` repeats in one process, instead of `rounds` rounds.
    """

    title: str
    metrics: dict[str, Metric]
    run: Callable[[str, int], tuple[dict[str, float | list[float]], str]]
    participants: list[str]
    size: int
    quick_size: int
    timeout: float = 60.0
    rounds: int = 5
    quick_repeats: int = 2
    quick_participants: list[str] = field(default_factory=list)
    ours: str = OURS
    floor: str | None = None


def started(name, **settings):
    """Return the participant's pool with all workers up and used."""
    peer = ADAPTERS[name](**settings)
    peer.start()
    peer.wait_all([peer.submit(work.sleep, 0.05) for _ in range(peer.workers)])
    peer.wait_all([peer.submit(work.noop) for _ in range(200)])
    return peer


def percentile(values, part):
    """Return the value below which `part` (0.0 to 1.0) of the sorted values lie."""
    return values[min(int(len(values) * part), len(values) - 1)]


class Companion:
    """Another process of the same user. It runs one function of `companions.py`, and exchanges lines with this process."""

    def __init__(self, function, *args):
        command = [sys.executable, str(BENCHMARKS / "companions.py"), function, *map(str, args)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a companion process ended with status {self.process.wait()}")
        return line.strip()

    def write(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


@contextlib.contextmanager
def named_pool(**settings):
    """Yield a named pool in the default runtime directory, and a directory for other files; stop the pool at the end."""
    import procjobs

    name = f"benchmark-{os.getpid()}"
    with tempfile.TemporaryDirectory() as directory:
        pool = procjobs.Pool(name, **{"workers": WORKERS, **settings})
        try:
            yield pool, directory
        finally:
            pool.stop()
