"""The functions that workers call: importable by name in every peer's worker."""

from __future__ import annotations

import importlib
import mmap
import os
import struct
import time

import procjobs

SLICES, SLICE_STEPS = 20, 300_000


def noop():
    return None


def hold(path):
    """Keep a worker busy until a file appears."""
    while not os.path.exists(path):
        time.sleep(0.005)


def sleep(seconds):
    time.sleep(seconds)


def write_pid_and_sleep(path, seconds):
    """Write this worker's pid into a file, whole or not at all, and sleep."""
    with open(f"{path}.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{path}.new", path)
    time.sleep(seconds)


def increment(number):
    return number + 1


def sleep_or_not(seconds):
    """Sleep only if `seconds` is not 0. So calls of the same function take different times."""
    if seconds:
        time.sleep(seconds)


def burn(path):
    """Compute for about 0.2 s in pure Python, and append a byte to a file after each of SLICES slices."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    for _ in range(SLICES):
        number = 0
        for n in range(SLICE_STEPS):
            number += n & 3
        os.write(fd, b".")
    os.close(fd)


def size_of(data):
    return len(data)


def same(value):
    return value


def import_modules(names):
    for name in names:
        importlib.import_module(name)


def sleep_and_return_pid(seconds):
    time.sleep(seconds)
    return os.getpid()


def touch(data):
    """Read one number of each page of an array of 8-byte numbers, of a list of arrays, or of the columns of a frame."""
    if isinstance(data, list):
        return sum(map(touch, data))
    if hasattr(data, "columns"):
        return sum(touch(data[column].to_numpy().view("i8")) for column in data.columns)
    return float(data[::512].sum())


def echo(data):
    touch(data)
    return data


# Reports of progress --------------------------------------------------------------------------------------------


def report_progress(count):
    started = time.perf_counter()
    for done in range(count):
        procjobs.progress(done, count)
    return (time.perf_counter() - started) / count * 1e6


def report_steadily(seconds):
    """Report 20 times a second."""
    import procjobs

    total = int(20 * seconds)
    for done in range(total):
        procjobs.progress(done, total, f"frame {done}")
        time.sleep(0.05)


def report_progress_after_file(path, count):
    report_progress(1)
    hold(path)
    return report_progress(count)


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
    """Do the minimum of any report in shared memory: pack two numbers."""
    memory, pack_into = mmap.mmap(-1, 4096), struct.Struct("<dd").pack_into
    started = time.perf_counter()
    for done in range(count):
        pack_into(memory, 0, done, count)
    return (time.perf_counter() - started) / count * 1e6


def report_once_and_hold(path):
    procjobs.progress(40, 100)
    hold(path)


# Reads by another process ---------------------------------------------------------------------------------------


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
