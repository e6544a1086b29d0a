"""A program whose threads are greenlets: `green_program.py LIBRARY WHEN DIRECTORY`. It says what works, a line each.

WHEN is when the standard library is patched: before procjobs is imported, after that, or after the pool was made.
"""

from __future__ import annotations

import faulthandler
import sys

LIBRARY, WHEN, DIRECTORY = sys.argv[1:4]


def patch():
    if LIBRARY == "gevent":
        from gevent import monkey

        monkey.patch_all()
    else:
        import eventlet

        eventlet.monkey_patch()


if WHEN == "before":
    patch()

import concurrent.futures  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import threading  # noqa: E402

import procjobs  # noqa: E402
from tests.process import jobs  # noqa: E402
from tests.waiting import wait_until  # noqa: E402

faulthandler.dump_traceback_later(90, exit=True)
signal.signal(signal.SIGALRM, signal.default_int_handler)  # as Ctrl-C, which some shells have ignored
NAME = os.path.basename(DIRECTORY)
if WHEN == "after import":
    patch()
pool = procjobs.Pool(NAME, workers=2)
if WHEN == "after the pool":
    patch()


def start(function, *args):
    """Start a greenlet; return what waits for its result."""
    outcome = []

    def run():
        try:
            outcome.append(function(*args))
        except BaseException as error:  # noqa: BLE001 - it is looked at
            outcome.append(error)

    # Not from the name at the top, which may be older than the patch.
    thread = sys.modules["threading"].Thread(target=run)
    thread.start()

    def wait():
        thread.join()
        return outcome[0]

    return wait


def path(name):
    return os.path.join(DIRECTORY, name)


def touch(name):
    with open(path(name), "w"):
        pass


def limit(seconds, function):
    """Call a function in a greenlet that its library interrupts after some time; return whether that came."""
    if LIBRARY == "gevent":
        import gevent as library
    else:
        import eventlet as library
    try:
        with library.Timeout(seconds):
            function()
    except library.Timeout:
        return True
    return False


def others_run_while_one_waits():
    # The job ends when another greenlet, which runs only if the waiting one gives way, has made a file.
    waiting = start(pool.submit(jobs.wait_for_file, path("one"), 1).result, 30)
    start(touch, "one")
    return waiting() == 1


def many_submit_and_wait():
    waits = [start(lambda n=n: pool.submit(jobs.add, n, n).result(30)) for n in range(200)]
    return [wait() for wait in waits] == [2 * n for n in range(200)]


def submits_while_others_wait():
    waits = [start(pool.submit(jobs.wait_for_file, path("many"), n).result, 60) for n in range(2)]
    later = pool.submit(jobs.echo, b"x" * 300_000)
    touch("many")
    return [wait() for wait in waits] == [0, 1] and len(later.result(30)) == 300_000


def timeouts():
    job = pool.submit(jobs.wait_for_file, path("timeouts"), 7)
    try:
        job.result(0.05)
    except TimeoutError:
        is_told = True
    is_cut = limit(0.05, lambda: job.result(30))
    touch("timeouts")
    return is_told and is_cut and job.result(30) == 7 and pool.submit(jobs.add, 1, 1).result(30) == 2


def killed_greenlet():
    job = pool.submit(jobs.wait_for_file, path("killed"), 8)
    if LIBRARY == "gevent":
        import gevent

        greenlet = gevent.spawn(job.result, 30)
        gevent.sleep(0)
        gevent.sleep(0)
        greenlet.kill()
    else:
        import eventlet

        greenlet = eventlet.spawn(job.result, 30)
        eventlet.sleep(0)
        eventlet.sleep(0)
        greenlet.kill()
    touch("killed")
    return job.result(30) == 8


def futures():
    found = [pool.submit(jobs.add, n) for n in range(20)]
    done = {job.result() for job in concurrent.futures.as_completed(found, 30)}
    ended, open_ = concurrent.futures.wait([pool.submit(jobs.add, n) for n in range(20)], 30)
    mapped = list(pool.map(jobs.add, range(50)))
    return done == set(range(20)) and (len(ended), len(open_)) == (20, 0) and mapped == list(range(50))


def callbacks():
    called = []
    job = pool.submit(jobs.add, 1)
    job.add_done_callback(called.append)
    job.result(30)
    wait_until(lambda: called)  # not an event: the callback comes in a thread of the system
    return called == [job]


def cancels_and_fails():
    job = pool.submit(jobs.wait_for_file, path("never"))
    waiting = start(job.result, 30)
    start(job.cancel)()
    return isinstance(waiting(), procjobs.JobCancelled) and isinstance(pool.submit(jobs.fail, "x").exception(30), ValueError)


def interrupt():
    job = pool.submit(jobs.wait_for_file, path("interrupt"), 9)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    is_told = False
    try:
        job.result(30)
    except KeyboardInterrupt:
        is_told = True
    touch("interrupt")
    return is_told and job.result(30) == 9


def forked_child():
    waiting = start(pool.submit(jobs.wait_for_file, path("forked"), 1).result, 60)
    sys.modules["time"].sleep(0.01)
    pid = os.fork()
    if not pid:
        try:
            results = [start(lambda n=n: pool.submit(jobs.add, n).result(30)) for n in range(3)]
            os._exit(0 if [wait() for wait in results] == [0, 1, 2] else 1)
        finally:
            os._exit(2)
    status = os.waitpid(pid, 0)[1]
    touch("forked")
    return (os.waitstatus_to_exitcode(status), waiting()) == (0, 1)


def lost_supervisor():
    waiting = start(pool.submit(jobs.wait_for_file, path("never")).result, 60)
    sys.modules["time"].sleep(0.01)
    os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
    ended = waiting()
    return isinstance(ended, procjobs.SupervisorLost) and pool.submit(jobs.add, 2, 2).result(30) == 4


def private_pools():
    waits = [start(use_private, n) for n in range(3)]
    return [wait() for wait in waits] == [0, 1, 2]


def use_private(n):
    with procjobs.Pool(workers=1) as own:
        return own.submit(jobs.add, n).result(30)


def patched_in_the_job():
    """Have a job load a module that patches the worker, as the module of an application does that begins so."""
    found = [pool.submit(jobs.patch, LIBRARY).result(60) for _ in range(4)]
    result = pool.options(soft_timeout=0.2, timeout=30).submit(jobs.sleep_for_ever).exception(60)
    children = [pool.submit(jobs.leave_a_child).result(60) for _ in range(4)]
    large = [len(pool.submit(jobs.echo, b"x" * 300_000).result(60)) for _ in range(4)]
    is_whole = len(children) == 4 and large == [300_000] * 4
    return is_whole and set(found) == {LIBRARY} and isinstance(result, procjobs.JobTimeout)


def stop():
    before = threading.active_count()
    start(pool.stop)()
    try:
        pool.submit(jobs.add, 1)
    except procjobs.PoolClosed:
        return before > 0
    return False


TRIES = (
    others_run_while_one_waits, many_submit_and_wait, submits_while_others_wait, timeouts, killed_greenlet, futures,
    callbacks, cancels_and_fails, interrupt, forked_child, lost_supervisor, private_pools, patched_in_the_job, stop,
)  # fmt: skip
if __name__ == "__main__":
    for attempt in TRIES:
        try:
            outcome = attempt()
        except Exception as error:  # noqa: BLE001 - it is shown
            outcome = f"{type(error).__name__}: {error}"
        print(attempt.__name__, outcome, flush=True)
