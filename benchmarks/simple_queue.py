"""Kill consumers of a simple queue at random while they work, and prove that no item was lost or had two consumers.

    python benchmarks/simple_queue.py --items 10000 --consumers 4 --kill-every 0.5 [--store URL]

Each consumer (tests/compat/simplequeue_consumer.py) keeps a ledger, and a lock of the kernel's for the item that it has.
"""

import argparse
import atexit
import collections
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from procjobs.compat import simplequeue

ROOT = Path(__file__).parents[1]
CONSUMER = ROOT / "tests" / "compat" / "simplequeue_consumer.py"
POOL = f"chaos-{os.getpid()}"


class Consumers:
    """Processes that take items, and one that kills them."""

    def __init__(self, ledger, store, number):
        self.killed = set()
        self._ledger = ledger
        self._command = [sys.executable, CONSUMER, ledger, store or "-", POOL]
        self._stop = threading.Event()
        self._running = [self._start() for _ in range(number)]

    def _start(self):
        return subprocess.Popen(self._command, env={**os.environ, "PYTHONPATH": str(ROOT)})

    def kill(self, pause):
        while not self._stop.wait(pause):
            place = random.randrange(len(self._running))
            victim = self._running[place]
            if ["ready", "-1", str(victim.pid)] not in lines(self._ledger):  # its start takes longer than the pause
                continue
            self.killed.add(str(victim.pid))
            victim.kill()
            if random.random() < 0.5:  # otherwise it is a zombie until the end
                victim.wait()
            self._running[place] = self._start()

    def finish(self):
        self._stop.set()

    def wait(self):
        return [consumer.wait() for consumer in self._running]

    def end(self):
        """Kill those that still run."""
        self._stop.set()
        for consumer in self._running:
            consumer.kill()


def lines(ledger):
    return [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []


def ended(ledger):
    return {number for what, number, _ in lines(ledger) if what == "end"}


def report(ledger, count, killed):
    """Print what happened; return how many items were lost, shared, or taken from a consumer that lived."""
    found = lines(ledger)
    times = collections.Counter(what for what, _, _ in found)
    holder, stolen = {}, 0
    for what, number, pid in found:
        if what == "take":
            stolen += holder.get(number, pid) not in {pid, *killed}
            holder[number] = pid
    lost = count - len(ended(ledger))
    print(f"{times['take']} times taken, {times['end']} times done, {len(killed)} consumers killed")
    print(f"lost: {lost}, with two consumers at a time: {times['CLASH']}, taken from a consumer that lived: {stolen}")
    return lost + times["CLASH"] + stolen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--consumers", type=int, default=4)
    parser.add_argument("--kill-every", type=float, default=0.5, help="seconds; 0 kills nothing")
    parser.add_argument("--store", help="the URL of a database; by default a file without a store")
    parser.add_argument("--give-up", type=float, default=900.0, help="seconds")
    options = parser.parse_args()
    simplequeue.configure(store=options.store, pool=POOL)
    with tempfile.TemporaryDirectory() as directory:
        ledger = Path(directory, "ledger")
        consumers = Consumers(ledger, options.store, options.consumers)
        killer = threading.Thread(target=consumers.kill, args=[options.kill_every], daemon=True)
        atexit.register(consumers.end)  # also after Ctrl-C
        begun = time.monotonic()
        if options.kill_every:
            killer.start()
        for number in range(options.items):
            simplequeue.enqueue(number)
        put = time.monotonic()
        while len(ended(ledger)) < options.items and time.monotonic() < begun + options.give_up:
            time.sleep(0.5)
        done = time.monotonic()
        consumers.finish()
        if options.kill_every:
            killer.join()
        Path(f"{ledger}.stop").touch()
        consumers.wait()
        print(f"{options.items / (put - begun):.0f} put in a second, {options.items / (done - begun):.0f} done in a second")
        return int(report(ledger, options.items, consumers.killed) > 0 or simplequeue.dequeue() is not None)


if __name__ == "__main__":
    sys.exit(main())
