"""Measures the effect of threads= and affinity=: jobs per second of two workers; the settings take turns in one run.

    python benchmarks/tuning.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import procjobs

WORKERS = 2
FREE = {"threads=None": {"threads": None}, "threads='auto'": {}}
PLACED = {"affinity=None": {}, "affinity='spread'": {"affinity": "spread"}}


def multiply(size, times):
    """Multiply matrices. BLAS does this in all its threads."""
    import numpy as np

    matrix = np.random.default_rng(1).random((size, size))
    for _ in range(times):
        matrix @ matrix


def count_primes(below):
    """Compute in one thread."""
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, below))


MEASURES = (
    ("matrices of 1000 x 1000", multiply, (1000, 4), FREE),
    ("matrices of 200 x 200", multiply, (200, 300), FREE),
    ("primes, in one thread", count_primes, (60_000,), PLACED),
    ("matrices of 1000 x 1000", multiply, (1000, 4), PLACED),
)


def rate(function, args, settings, jobs=8):
    """Return the jobs per second of a new pool that has warmed up."""
    with procjobs.Pool(workers=WORKERS, nice=0, **settings) as pool:
        for job in [pool.submit(function, *args) for _ in range(2 * WORKERS)]:
            job.result(120)
        began = time.perf_counter()
        for job in [pool.submit(function, *args) for _ in range(jobs)]:
            job.result(120)
        return jobs / (time.perf_counter() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often the settings take turns")
    rounds = parser.parse_args().rounds
    set_by_hand = [name for name in os.environ if name.endswith("_NUM_THREADS")]
    if set_by_hand:
        raise SystemExit(f"unset {', '.join(set_by_hand)} first: the environment wins over threads='auto'")
    print(f"{WORKERS} workers on {len(os.sched_getaffinity(0))} CPUs, load {os.getloadavg()[0]:.2f}")
    print("jobs/s, median (min - max)")
    for name, function, args, variants in MEASURES:
        rates = {label: [] for label in variants}
        for _ in range(rounds):
            for label, settings in variants.items():
                rates[label].append(rate(function, args, settings))
        for label, found in rates.items():
            print(f"{name:26} {label:20} {statistics.median(found):7.2f}  ({min(found):.2f} - {max(found):.2f})", flush=True)
    print(f"load at the end {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
