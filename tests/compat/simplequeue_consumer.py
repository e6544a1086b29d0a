"""A consumer of a simple queue that keeps a ledger: `python simplequeue_consumer.py LEDGER STORE POOL`.

Each item is a number. While the consumer works on one, it has the lock of the byte of that number in the file LEDGER.locks,
which the kernel takes away at its end: a second consumer of the same item writes CLASH. It stops when it finds LEDGER.stop
and there is nothing to do.
"""

from __future__ import annotations

import fcntl
import os
import random
import sys
import time

from procjobs.compat import simplequeue


def main(ledger, store, pool):
    simplequeue.configure(store=store if store != "-" else None, pool=pool)
    out = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    locks = os.open(f"{ledger}.locks", os.O_RDWR | os.O_CREAT)
    pid = os.getpid()

    def write(what, number):
        os.write(out, f"{what} {number} {pid}\n".encode())

    write("ready", -1)
    while True:
        item = simplequeue.dequeue(timeout=0.5)
        if item is None:
            if os.path.exists(f"{ledger}.stop"):
                break
            continue
        number = item.value
        try:
            fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            write("CLASH", number)
            continue
        write("take", number)
        if random.random() < 0.2:
            time.sleep(random.random() * 0.004)  # job
        write("end", number)
        fcntl.lockf(locks, fcntl.LOCK_UN, 1, number)
    write("exit", -1)


if __name__ == "__main__":
    main(*sys.argv[1:])
