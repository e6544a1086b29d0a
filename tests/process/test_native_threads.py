"""Preloaded modules that start native threads, of which a fork has none; and random numbers in forked workers."""

from __future__ import annotations

import importlib
import os
import warnings

import pytest

import procjobs
from procjobs.host import threads

NATIVE = """
import ctypes
libc = ctypes.CDLL(None)
thread = ctypes.c_ulong()
libc.pthread_create(ctypes.byref(thread), None, ctypes.cast(libc.pause, ctypes.c_void_p), None)
def job(): return 42
"""
"""A thread of C that Python knows nothing of, and that stays."""

SOURCES = {
    "polars": """
import polars
TABLE = polars.DataFrame({"a": range(100_000)}).sort("a", descending=True)
def job(): return TABLE.select(polars.col("a").sum()).item()
""",
    "torch": """
import torch
ones = torch.ones(600, 600)
product = ones @ ones
def job(): return float((ones @ ones).sum())
""",
    "numba": """
import numba, numpy
@numba.njit(parallel=True)
def add(values):
    total = 0.0
    for index in numba.prange(values.size):
        total += values[index]
    return total
add(numpy.ones(10))
def job(): return add(numpy.ones(100_000))
""",
}


@pytest.fixture
def module(tmp_path, monkeypatch, pool_name):
    """Write a module that can be imported here and in the pool; its name is one that no other test has."""

    def write(text):
        name = f"native_{pool_name.rpartition('-')[2]}"
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        return name

    return write


def run(name, jobs, **settings):
    """Run jobs of a preloaded module; return their results, the log, and the warnings."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with procjobs.Pool(preload=[name], threads=2, **settings) as pool:
            results = [pool.submit(call_job, name) for _ in range(jobs)]
            results = [job.result(100) for job in results]
            with open(pool._link.directory.log) as log:
                text = log.read()
    return results, text, [str(one.message) for one in told if issubclass(one.category, procjobs.PoolDegraded)]


def call_job(name):
    return importlib.import_module(name).job()


def test_module_that_starts_a_native_thread_is_left_to_the_workers(module):
    name = module(NATIVE)
    results, log, told = run(name, 3, workers=1, timeout=60)
    assert [42, 42, 42] == results
    assert f"{name} starts native threads when it is imported (" in log
    assert "it is not preloaded, and workers import it themselves" in log
    (text,) = set(told)
    assert f"{name} starts native threads" in text
    assert "or leave it out of preload" in text


def test_only_the_responsible_module_is_left_out(module, tmp_path):
    name = module(NATIVE)
    other = f"{name}_other"
    (tmp_path / f"{other}.py").write_text("import os\nPID = os.getpid()\ndef job(): return PID == os.getpid()\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", procjobs.PoolDegraded)
        with procjobs.Pool(workers=1, preload=[other, name], timeout=60) as pool:
            assert False is pool.submit(call_job, other).result(60)  # it was imported in the template
            assert 42 == pool.submit(call_job, name).result(60)
            with open(pool._link.directory.log) as log:
                assert f"{other} starts" not in log.read()


def test_later_client_is_told_too(module, pool_name):
    name = module(NATIVE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", procjobs.PoolDegraded)
        with procjobs.Pool(pool_name, workers=1, preload=[name]) as pool:
            assert 42 == pool.submit(call_job, name).result(60)
            warnings.simplefilter("error", procjobs.PoolDegraded)
            with pytest.raises(procjobs.PoolDegraded, match=f"{name} starts native threads"):
                procjobs.Pool(pool_name, preload=[name]).connect()


@pytest.mark.parametrize("library", SOURCES)
def test_library_that_has_computed_at_import_works(module, library):
    pytest.importorskip(library)
    name = module(SOURCES[library])
    results, log, told = run(name, 2, workers=1, timeout=90)
    assert results[0] == results[1] > 0
    assert ("not preloaded" in log, True) == (True, bool(told))


def test_library_that_ends_its_threads_before_a_fork_is_preloaded(module):
    pytest.importorskip("numpy")
    name = module(
        "import os, numpy\nA = numpy.random.rand(600, 600)\nB = A @ A\nPID = os.getpid()\n"
        "def job(): return float((A @ B).sum()) > 0 and PID != os.getpid()\n"
    )
    results, log, told = run(name, 2, workers=1, timeout=60)
    assert ([True, True], False, []) == (results, "not preloaded" in log, told)


def test_without_proc_nothing_is_known_and_nothing_ends(monkeypatch):
    monkeypatch.setattr(os, "listdir", lambda _: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert [] == threads.native_threads() == threads.threads_kept_in_fork()


RANDOM = """
import random
{imports}
random.seed(5)
{seeds}
def job(): return ({values}, random.random())
"""


@pytest.mark.parametrize("library", ["random", "numpy", "torch"])
def test_global_generators_give_each_worker_numbers_of_its_own(module, library):
    seeds, values = {
        "random": ("", "0"),
        "numpy": ("numpy.random.seed(5)", "numpy.random.random()"),
        "torch": ("torch.manual_seed(5)", "float(torch.rand(1, dtype=torch.float64))"),
    }[library]
    pytest.importorskip(library)
    name = module(RANDOM.format(imports=f"import {library}", seeds=seeds, values=values))
    results, log, _ = run(name, 6, workers=1, max_jobs_per_worker=1, timeout=60)
    if library == "torch" and "not preloaded" in log:
        pytest.skip("this torch starts threads when it is imported")
    assert "not preloaded" not in log
    for position in range(2):
        numbers = [result[position] for result in results]
        assert 6 == len(set(numbers)) or (library, position) == ("random", 0)
