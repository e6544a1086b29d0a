"""Functions for other processes of the same user: `python companions.py FUNCTION ARGUMENTS`.

Each process writes "ready" to standard output, starts when it reads a line, and prints its result.
"""

from __future__ import annotations

import sys
import time

import work


def say(text):
    print(text, flush=True)


def attach(pool_name):
    import procjobs

    return procjobs.Pool(pool_name)


def submit_share(name, pool_name, count):
    """Submit no-op jobs to the shared pool if it has a name, else to a pool of this process."""
    count = int(count)
    if pool_name:
        pool = attach(pool_name)
        submit = pool.submit

        def wait_all(handles):
            for handle in handles:
                handle.result()

    else:
        from measures.base import started

        peer = started(name)
        submit, wait_all = peer.submit, peer.wait_all
    wait_all([submit(work.noop) for _ in range(200)])
    say("ready")
    sys.stdin.readline()
    wait_all([submit(work.noop) for _ in range(count)])
    say(time.monotonic())
    sys.stdin.readline()
    if pool_name:
        pool.shutdown()
    else:
        peer.close()


def read_status(pool_name, job_id, count):
    """Print the cost of one status read in microseconds."""
    pool = attach(pool_name)
    assert pool.status(job_id).progress.value == 40
    say("ready")
    sys.stdin.readline()
    begun = time.perf_counter()
    for _ in range(int(count)):
        pool.status(job_id)
    say((time.perf_counter() - begun) / int(count) * 1e6)
    pool.shutdown()


def read_all_the_time(pool_name, job_id, per_second):
    """Read a job's status `per_second` times a second, in one burst each millisecond, until the next line."""
    import threading

    pool, ended = attach(pool_name), threading.Event()
    share = int(per_second) // 1000
    say("ready")
    sys.stdin.readline()
    threading.Thread(target=lambda: (sys.stdin.readline(), ended.set()), daemon=True).start()
    reads, begun = 0, time.monotonic()
    while not ended.is_set():
        for _ in range(share):
            pool.status(job_id)
        reads += share
        time.sleep(max(begun + reads / int(per_second) - time.monotonic(), 0.0))
    say(reads / (time.monotonic() - begun))
    pool.shutdown()


def attach_timed(pool_name):
    """Print the time of the constructor, and the time from its start to the first result, in milliseconds."""
    from procjobs import Pool

    begun = time.perf_counter()
    pool = Pool(pool_name)
    attached = time.perf_counter() - begun
    pool.submit(work.noop).result()
    say(f"{attached * 1e3} {(time.perf_counter() - begun) * 1e3}")
    pool.shutdown()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
