"""Break a pool with a store between any two steps: `python benchmarks/store_chaos.py --rounds 200 [--store URL]`.

Clients submit jobs of all kinds to a faulty build of procjobs (faulty_build.py). In each round a process is killed, stopped
or delayed at a fault point or at any moment, or the database is locked, cut off or restarted, or a second supervisor comes
up. Every chapter, of some rounds, ends in peace: everything has to be answered, and the ledger (store_chaos_ledger.py)
compares what jobs did and what clients were promised with the store. The exit status is 0 only if no promise was broken.

    --store sqlite | postgresql | URL     a file, a server of its own, a database for the chaos alone; or none
    --minutes M                           for so long, instead of a number of rounds
    --mutant NAME                         with a promise broken in the code (mutants.py): the status is 0 if that is caught
    --mutants all | NAME,NAME             one after the other, each until it is caught, at most --minutes (5)
    --list                                the fault points and the mutants
    --without unique,restart              leave out some of the ACTIONS of clients and the chaos
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [path for path in (HERE, os.path.dirname(HERE)) if path not in sys.path]

import faulty_build  # noqa: E402 - the path comes first
from fault_points import POINTS  # noqa: E402
from mutants import MUTANTS  # noqa: E402
from store_chaos_stage import ACTIONS, Chapter, make_database  # noqa: E402

ROUNDS_OF_CHAPTER = 10
MUTANT_MINUTES = 5.0


class Chaos:
    """Chapters one after the other, on one build and one database."""

    def __init__(self, options, edits=()):
        self._chance = random.Random(options.seed)
        self._without = set(filter(None, options.without.split(",")))
        self._directory = tempfile.mkdtemp(prefix="sc-")
        self._build = faulty_build.make(self._directory, POINTS, edits)
        self._database = make_database(options.store, self._directory)
        self._keep = options.keep
        self.totals = Counter()
        self.passed = Counter()
        self.number = 0

    def run_chapter(self, rounds):
        """Return the broken promises of some rounds."""
        self.number += 1
        place = f"{self._directory}/{self.number}"
        os.mkdir(place)
        actions = [action for action in ACTIONS if action not in self._without]
        chapter = Chapter(self._build, self._database, place, random.Random(self._chance.random()), actions)
        try:
            faults = chapter.run(rounds)
        finally:
            chapter.close()
        self.totals += chapter.totals
        self.passed += chapter.passed
        if faults and self._keep:
            kept = f"{self._keep}/{os.path.basename(self._directory)}-{self.number}"
            shutil.copytree(place, kept, ignore=shutil.ignore_patterns("socket", "table", ".procjobs"))
        shutil.rmtree(place, ignore_errors=True)
        return faults

    def close(self):
        self._database.close()
        shutil.rmtree(self._directory, ignore_errors=True)


def run_chaos(options, edits=(), *, until_caught=False):
    """Run chapters until the rounds or the minutes are over; return the result."""
    chaos, began_at, rounds, faults = Chaos(options, edits), time.monotonic(), 0, []
    deadline = began_at + options.minutes * 60 if options.minutes else None
    try:
        while rounds < options.rounds if deadline is None else time.monotonic() < deadline:
            count = ROUNDS_OF_CHAPTER if deadline else min(ROUNDS_OF_CHAPTER, options.rounds - rounds)
            faults += [f"chapter {chaos.number}: {fault}" for fault in chaos.run_chapter(count)]
            rounds += count
            if options.verbose:
                print(f"{rounds} rounds, {time.monotonic() - began_at:.0f} s, {len(faults)} broken promises", flush=True)
            if faults and until_caught:
                break
    finally:
        chaos.close()
    unpassed = [point.name for number, point in enumerate(POINTS) if not chaos.passed[number]]
    return {
        "seed": options.seed, "rounds": rounds, "seconds": round(time.monotonic() - began_at, 1), **chaos.totals,
        "points never passed": unpassed, "broken promises": faults,
    }  # fmt: skip


def run_mutant(options, name):
    """Run a mutant until it is caught."""
    mutant = MUTANTS[name]
    without = options.without if mutant.about_claim else f"{options.without},second"
    chosen = argparse.Namespace(**{**vars(options), "store": mutant.store or options.store, "without": without})
    return run_chaos(chosen, mutant.edits, until_caught=True)


def run_mutants(options, names):
    """Run each mutant until it is caught; print a table, and return the names of those that were not."""
    uncaught = []
    options.minutes = options.minutes or MUTANT_MINUTES
    print(f"{'mutant':36} {'caught after':>12}  by", flush=True)
    for name in names:
        result = run_mutant(options, name)
        faults = Counter(fault.split(": ")[1] for fault in result["broken promises"])
        uncaught += [] if faults else [name]
        after = f"{result['seconds']:.0f} s" if faults else "never"
        print(f"{name:36} {after:>12}  {', '.join(f'{what} ({n})' for what, n in faults.most_common(4))}", flush=True)
        if options.verbose and result["broken promises"]:
            print(f"    {result['broken promises'][0]:.1500}", flush=True)
    print(f"{len(names) - len(uncaught)} of {len(names)} caught", flush=True)
    return uncaught


def show_list():
    print("Fault points:")
    for point in POINTS:
        print(f"    {point.name:34} {'after' if point.is_after else 'before':6} {point.file}")
    print("Mutants:")
    for name, mutant in MUTANTS.items():
        print(f"    {name:34} {mutant.breaks}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--store", default="sqlite")
    parser.add_argument("--without", default="", metavar="ACTION,...")
    parser.add_argument("--mutant", choices=sorted(MUTANTS))
    parser.add_argument("--mutants", metavar="all|NAME,...")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--keep", metavar="DIR",
                        help="keep the ledger, the log and the store of chapters with broken promises")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if options.list:
        show_list()
        return 0
    if options.mutants:
        names = list(MUTANTS) if options.mutants == "all" else options.mutants.split(",")
        return 1 if run_mutants(options, names) else 0
    if options.mutant:
        options.minutes = options.minutes or MUTANT_MINUTES
        result = run_mutant(options, options.mutant)
    else:
        result = run_chaos(options)
    print(json.dumps(result, indent=1))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)
    return int(bool(result["broken promises"]) is not bool(options.mutant))


if __name__ == "__main__":
    sys.exit(main())
