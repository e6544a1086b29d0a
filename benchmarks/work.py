"""The functions that workers call: importable by name in every peer's worker."""

from __future__ import annotations

import mmap
import os
import struct
import time

import procjobs


def noop():
    return None


def hold(path):
    """Keep a worker busy until a file appears."""
    while not os.path.exists(path):
        time.sleep(0.005)


def sleep(seconds):
    time.sleep(seconds)


def tell_pid_and_sleep(path, seconds):
    """Write this worker's pid into a file, whole or not at all, and sleep."""
    with open(f"{path}.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{path}.new", path)
    time.sleep(seconds)


def touch(array):
    """Read one number of each page of an array of float64."""
    return float(array[::512].sum())


def echo(array):
    touch(array)
    return array


# What a job reports ---------------------------------------------------------------------------------------------


def report_progress(count):
    started = time.perf_counter()
    for done in range(count):
        procjobs.progress(done, count)
    return (time.perf_counter() - started) / count * 1e6


def report_message(count):
    started = time.perf_counter()
    for done in range(count):
        procjobs.progress(done, count, "page 3 of 7")
    return (time.perf_counter() - started) / count * 1e6


def report_to_dict(shared, count):
    started = time.perf_counter()
    for done in range(count):
        shared["job"] = (done, count)
    return (time.perf_counter() - started) / count * 1e6


def report_bare(count):
    """Do the least that any shared-memory report does: pack two numbers."""
    memory, pack_into = mmap.mmap(-1, 4096), struct.Struct("<dd").pack_into
    started = time.perf_counter()
    for done in range(count):
        pack_into(memory, 0, done, count)
    return (time.perf_counter() - started) / count * 1e6


def report_once_and_hold(path):
    procjobs.progress(40, 100)
    hold(path)


# What another process reads -------------------------------------------------------------------------------------


def read_status(name, directory, job_id, count):
    pool = procjobs.Pool(name, workers=2, directory=directory)
    assert pool.status(job_id).progress.value == 40
    started = time.perf_counter()
    for _ in range(count):
        pool.status(job_id)
    elapsed = time.perf_counter() - started
    pool.shutdown()
    return elapsed / count * 1e6


def read_dict(shared, count):
    assert shared["job"] == (40, 100)
    started = time.perf_counter()
    for _ in range(count):
        shared["job"]
    return (time.perf_counter() - started) / count * 1e6


def read_bare(count):
    memory, unpack_from = mmap.mmap(-1, 4096), struct.Struct("<dd").unpack_from
    started = time.perf_counter()
    for _ in range(count):
        unpack_from(memory, 0)
    return (time.perf_counter() - started) / count * 1e6
