"""Does a pool give memory back? Runs many jobs of all kinds, and shows what each process has between them.

    python benchmarks/memory.py [--jobs 1000000] [--store URL] [--limit 20]

A table row for each process at intervals: when all jobs have ended and their results have been dropped. A leak is growth
from row to row: the median slope of the bytes that a process has for itself (USS), in bytes per job, in the second half.
In the first one heaps get their pages and caches are filled: 4096 functions are remembered, which takes 25,000 jobs.
The exit status is 0 if no process grows by more than --limit bytes per job, and no descriptors or files are left.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import statistics
import sys
import tempfile
import time
from typing import NamedTuple

import psutil
from memory_jobs import QUEUES, Mix, fetch

import procjobs
from procjobs.host import rundir

ROLES = {"procjobs-super": "supervisor", "procjobs-templ": "template", "procjobs-record": "recorder"}
BURST = 400
"""How many jobs are under way at once: always the same, so that the highest use of memory is the same in each interval."""


class Use(NamedTuple):
    """Bytes of the processes of one role, and how many descriptors they have open."""

    uss: int
    pss: int
    rss: int
    descriptors: int


class Row(NamedTuple):
    """One look: how many jobs had run, the use by role, and the bytes of the files in the pool's directory."""

    jobs: int
    uses: dict[str, Use]
    files: int


def look(pool, directory, jobs):
    """Wait until all results are dropped, then look at every process of the pool."""
    deadline = time.monotonic() + 60
    while pool.jobs(limit=1):
        if time.monotonic() > deadline:
            raise SystemExit(f"after a minute there are still jobs: {pool.jobs(limit=3)}")
        time.sleep(0.05)
    supervisor = psutil.Process(pool.stats().supervisor_pid)
    uses = {"client": use_of(psutil.Process())}
    for process in [supervisor, *supervisor.children(recursive=True)]:
        role = ROLES.get(process.name(), "workers")
        uses[role] = Use(*map(sum, zip(uses.get(role, Use(0, 0, 0, 0)), use_of(process), strict=True)))
    # Logs, and the failed attempts in the annex, grow up to some megabytes.
    entries = [entry for entry in os.scandir(directory) if not entry.name.startswith(("log", "annex"))]
    files = sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)
    return Row(jobs, uses, files)


def use_of(process):
    memory = process.memory_full_info()
    return Use(memory.uss, memory.pss, memory.rss, process.num_fds())


def slope(points):
    """Return the median of the slopes between any two points: one outlier does not change it."""
    slopes = [(later - earlier) / (n - m) for (m, earlier), (n, later) in itertools.combinations(points, 2)]
    return statistics.median(slopes)


def run(pool, jobs, rows):
    """Run the jobs; yield a row at each interval."""
    mix = Mix(pool)
    directory = directory_of(pool).path
    done = 0
    for row in range(1, rows + 1):
        while done < jobs * row // rows:
            burst = [mix.submit() for _ in range(min(BURST, jobs * row // rows - done))]
            done += len(burst)
            fetch(burst)
            del burst
        yield look(pool, directory, done)


def directory_of(pool):
    return rundir.RunDir(rundir.find_base(), pool.name)


def show_log(pool):
    """Show what the pool itself has logged last: the lines of its jobs have a label."""
    with open(directory_of(pool).log, errors="replace") as file:
        own = [line for line in file if not re.match(r"\S+ \S+ \[", line)]
    print("the end of the pool's log:", *own[-40:], sep="\n", flush=True)


def show_head():
    print(f"{'jobs':>9}  {'process':<10} {'USS MB':>8} {'PSS MB':>8} {'RSS MB':>8} {'descriptors':>12}", flush=True)


def show(row):
    for index, (role, use) in enumerate(row.uses.items()):
        numbers = " ".join(f"{value / 1e6:8.2f}" for value in use[:3])
        print(f"{'' if index else row.jobs:>9}  {role:<10} {numbers} {use.descriptors:12}")
    print(f"{'':>9}  {'files':<10} {row.files / 1e6:8.2f}", flush=True)


def judge(rows, limit):
    """Show the growth of each process; return whether none is a leak."""
    is_good = True
    for role, first in rows[0].uses.items():
        growth = slope([(row.jobs, row.uses[role].uss) for row in rows])
        descriptors = rows[-1].uses[role].descriptors - first.descriptors
        is_good &= growth <= limit and descriptors <= 0
        print(f"{role:<10} {growth:8.2f} bytes per job, {descriptors:+} descriptors")
    files = rows[-1].files - rows[0].files
    print(f"{'files':<10} {files:+8} bytes")
    return is_good and files <= 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=200_000)
    parser.add_argument("--store", help="a URL; sqlite is a file of this program's own")
    parser.add_argument("--rows", type=int, default=24, help="how often to look")
    parser.add_argument("--limit", type=float, default=20.0, help="bytes per job by which a process may grow")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="procjobs-memory-") as folder:
        store = f"sqlite:///{folder}/jobs.db" if arguments.store == "sqlite" else arguments.store
        options = {} if store is None else {"store": store, "history_limit": 1000, "history_ttl": 5.0}
        pool = procjobs.Pool(f"memory-{os.getpid()}", workers=2, queues=QUEUES, result_ttl=0.5, **options)
        started = time.monotonic()
        rows = []
        try:
            show_head()
            for row in run(pool, arguments.jobs, arguments.rows):
                show(row)
                rows.append(row)
        except procjobs.ProcjobsError:
            with contextlib.suppress(OSError):
                show_log(pool)
            raise
        finally:
            pool.stop()
    print(f"\n{arguments.jobs} jobs in {time.monotonic() - started:.0f} s; growth after {rows[len(rows) // 2].jobs} jobs:")
    sys.exit(0 if judge(rows[len(rows) // 2 :], arguments.limit) else 1)


if __name__ == "__main__":
    main()
