"""The cost of a progress report for the job, and the cost of a status by id for the process that asks."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import work
from peers import WORKERS

from measures.base import Companion, Measure, Metric, named_pool, started

FLOOR = "floor: struct in shared memory"
MANAGER = "Manager().dict()"
MESSAGE = "procjobs, with a message"
WATCHED = "procjobs, while it is read"
READS_PER_SECOND = 10_000


def measure_progress(name, size):
    if name == FLOOR:
        return {"write": work.report_bare(size * 10)}, "struct.pack_into, no protocol"
    if name == MANAGER:
        with multiprocessing.Manager() as manager, multiprocessing.get_context("fork").Pool(WORKERS) as pool:
            shared = manager.dict()
            pool.apply(work.report_to_dict, (shared, 100))
            return {"write": pool.apply(work.report_to_dict, (shared, size))}, "written in a multiprocessing.Pool job"
    if name == WATCHED:
        return measure_watched(size)
    peer = started("procjobs")
    function = work.report_message if name == MESSAGE else work.report_progress
    peer.result(peer.submit(function, 100))
    cost = peer.result(peer.submit(function, size * 10))
    peer.close()
    return {"write": cost}, ""


def measure_watched(size):
    """Measure reports of a job while another process reads its status all the time."""
    with named_pool() as (pool, directory):
        pool.submit(work.report_progress, 100).result()
        job = pool.submit(work.report_progress_after_file, f"{directory}/go", size * 100)
        while job.progress() is None:
            pass
        reader = Companion("read_all_the_time", pool.name, job.id, READS_PER_SECOND)
        reader.read()
        with open(f"{directory}/go", "w"):
            reader.write("go")  # reads until the next line
            cost = job.result()
        reader.write("end")
        reads = float(reader.read())
        reader.close()
    return {"write": cost}, f"{reads:,.0f} status reads/s by another process"


def measure_status(name, size):
    if name == FLOOR:
        return {"read": work.read_bare(size * 10)}, "struct.unpack_from, no protocol"
    if name == MANAGER:
        with (
            ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as other,
            multiprocessing.Manager() as manager,
        ):
            shared = manager.dict(job=(40, 100))
            return {"read": other.submit(work.read_dict, shared, size).result()}, ""
    with named_pool() as (pool, directory):
        job = pool.submit(work.report_once_and_hold, f"{directory}/release")
        while job.progress() is None:
            pass
        reader = Companion("read_status", pool.name, job.id, size)
        reader.read()
        reader.write("go")
        cost = float(reader.read())
        reader.close()
        with open(f"{directory}/release", "w"):
            job.result()
    return {"read": cost}, "named pool, job running"


MEASURES = {
    "progress": Measure(
        "Cost of one report of progress inside a job",
        {"write": Metric("write", "us")}, measure_progress,
        ["procjobs", WATCHED, MESSAGE, MANAGER, FLOOR], 5_000, 2_000, quick_repeats=1, floor=FLOOR,
    ),
    "status": Measure(
        "Cost of asking for a job's status by id, from another process",
        {"read": Metric("read", "us")}, measure_status, ["procjobs", MANAGER, FLOOR], 5_000, 2_000,
        quick_repeats=1, floor=FLOOR,
    ),
}  # fmt: skip
