"""Jobs that submit jobs to the pool that runs them, and wait for these."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import threading
import time

import procjobs


def pool_of(name):
    return procjobs.Pool(name)


def double(number):
    return 2 * number


def hold(path):
    while not os.path.exists(path):
        time.sleep(0.005)  # job
    return "held"


def fibonacci(name, number):
    if number < 2:
        return number
    pool = pool_of(name)
    first, second = pool.submit(fibonacci, name, number - 1), pool.submit(fibonacci, name, number - 2)
    return first.result() + second.result()


def descend(name, depth):
    return 0 if not depth else 1 + pool_of(name).submit(descend, name, depth - 1).result()


def by_exception(name):
    return pool_of(name).submit(double, 4).exception()


def by_wait(name):
    jobs = [pool_of(name).submit(double, n) for n in range(100)]
    done, pending = concurrent.futures.wait(jobs)
    assert not pending
    return sum(job.result() for job in done)


def by_as_completed(name):
    return sum(job.result() for job in concurrent.futures.as_completed([pool_of(name).submit(double, n) for n in range(9)]))


def by_map(name):
    return list(pool_of(name).map(double, range(5)))


def by_unordered_map(name):
    return sorted(pool_of(name).map(double, range(5), ordered=False))


def by_id(name):
    pool = pool_of(name)
    return pool.job(pool.submit(double, 4).id).result()


def by_job_wait(name):
    return pool_of(name).submit(double, 4).wait()


def by_updates(name):
    return [status.state for status in pool_of(name).submit(double, 4).updates()][-1]


def in_a_thread(name):
    results = []
    thread = threading.Thread(target=lambda: results.append(pool_of(name).submit(double, 4).result()))
    thread.start()
    thread.join()
    return results


async def by_await(name):
    return await pool_of(name).submit(double, 4)


async def by_run(name):
    return await pool_of(name).run(double, 4)


async def by_gather(name):
    return await asyncio.gather(*(pool_of(name).submit(double, n) for n in range(3)))


async def by_executor(name):
    return await asyncio.get_running_loop().run_in_executor(pool_of(name), double, 4)


def wait_for_itself(name):
    pool_of(name).job(procjobs.current_job().id).result()


def wait_for(name, job_id):
    return pool_of(name).job(job_id).result()


def wait_for_same_key(name):
    pool_of(name).options(key="film 7").submit(double, 4).result()


def wait_in_queue(name):
    pool_of(name).options(queue="narrow").submit(double, 4).result()


async def await_in_queue(name):
    await pool_of(name).options(queue="narrow").submit(double, 4)


def wait_in_queue_with_others(name):
    jobs = [pool_of(name).options(queue="narrow").submit(double, n) for n in range(2)]
    return [type(job.exception()).__name__ for job in concurrent.futures.as_completed(jobs)]


def wait_a_moment(name, path):
    job = pool_of(name).submit(hold, path)
    try:
        job.result(timeout=0.05)
    except TimeoutError:
        return job.id
    return "it has ended"


def wait_until_held(name, path):
    return pool_of(name).submit(hold, path).result()


def die_while_waiting(name, path, mark):
    if os.path.exists(mark):
        return "the second attempt"
    job = pool_of(name).submit(hold, path)
    threading.Thread(target=job.result, daemon=True).start()
    while pool_of(name).stats().waiting_workers != 1:
        time.sleep(0.005)  # job
    open(mark, "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it was killed")
