"""Wrappers: context managers around every job."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import procjobs
from tests.process import jobs, wrapped_jobs

from ..conftest import wait_until

HERE = "tests.process.wrapped_jobs"


@pytest.fixture
def wrapped():
    """Return a pool whose jobs run inside these wrappers."""
    pools = []

    def make(*wrappers, **settings):
        pools.append(procjobs.Pool(workers=1, wrappers=wrappers, **settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.stop()


def test_every_job_runs_inside_the_wrappers_in_their_order(wrapped):
    pool = wrapped(f"{HERE}:outer", wrapped_jobs.inner, f"{HERE}:Named.wrapper", wrapped_jobs.Both)
    for _ in range(2):
        expected = ("outer own_trace 1 True", "inner", "both")
        assert expected == pool.submit(wrapped_jobs.own_trace).result(30), "one that is there already stays where it is"


def test_asynchronous_wrappers_are_around_coroutines_only_and_inside_of_all_others(wrapped):
    pool = wrapped(f"{HERE}:in_loop", f"{HERE}:inner")
    assert ("inner",) == pool.submit(wrapped_jobs.own_trace).result(30)
    assert ("inner", "in the loop") == pool.submit(wrapped_jobs.own_trace_in_a_coroutine).result(30)


def test_closure_can_be_a_wrapper(wrapped):
    import contextlib

    word = "made here"

    @contextlib.contextmanager
    def wrapper(job):
        wrapped_jobs.note(word)
        yield

    assert ("made here",) == wrapped(wrapper).submit(wrapped_jobs.own_trace).result(30)


@pytest.mark.parametrize(
    ("wrappers", "error", "said"),
    [
        (["refusing"], PermissionError, "the user has no quota"),
        (["inner", "refusing", "outer"], PermissionError, "the user has no quota"),
        (["failing_at_the_end"], ValueError, "the commit failed"),
        (["inner", "failing_at_the_end", "outer"], ValueError, "the commit failed"),
        (["no_manager"], TypeError, r"tests.process.wrapped_jobs:no_manager returned int, which is no context manager"),
    ],
)
def test_error_of_a_wrapper_is_that_of_the_job(wrapped, wrappers, error, said):
    pool = wrapped(*(f"{HERE}:{name}" for name in wrappers))
    for _ in range(2):
        job = pool.submit(wrapped_jobs.own_trace)
        with pytest.raises(error, match=said) as caught:
            job.result(30)
        assert ("failed", "raised") == (job.status().state, job.status().reason)
        if error is not TypeError:
            text = str(caught.value.__cause__)
            assert (True, False) == ("wrapped_jobs.py" in text, "procjobs/worker" in text), text
    assert 0 == pool.stats().restarts


@pytest.mark.parametrize("function", [wrapped_jobs.divide, wrapped_jobs.divide_in_a_coroutine])
@pytest.mark.parametrize("wrappers", [["swallowing"], ["swallowing", "refusing"], ["inner", "swallowing", "outer"]])
def test_job_whose_exception_a_wrapper_swallows_returns_none(wrapped, wrappers, function):
    pool = wrapped(*(f"{HERE}:{name}" for name in wrappers))
    assert None is pool.submit(function).result(30)


def test_coroutine_whose_exception_an_asynchronous_wrapper_swallows_returns_none(wrapped):
    pool = wrapped(wrapped_jobs.swallowing_in_loop)
    assert None is pool.submit(wrapped_jobs.divide_in_a_coroutine).result(30)
    with pytest.raises(ZeroDivisionError):
        pool.submit(wrapped_jobs.divide).result(30)


def test_wrapper_that_swallows_the_interruption_of_a_job_does_not_make_it_succeed(wrapped, tmp_path):
    pool = wrapped(wrapped_jobs.swallowing)
    job = pool.submit(wrapped_jobs.sleep, str(tmp_path / "begun"))
    wait_until((tmp_path / "begun").exists)
    assert pool.cancel(job.id)
    wait_until(lambda: job.status().state == "cancelled")
    assert 0 == pool.stats().restarts


@pytest.mark.parametrize("how", ["cancel", "soft_timeout"])
def test_end_of_a_wrapper_is_not_interrupted(wrapped, tmp_path, how):
    pool, path = wrapped(wrapped_jobs.slow_at_the_end, grace_period=600), tmp_path / "path"
    options = pool.options(**({"soft_timeout": 0.5} if how == "soft_timeout" else {}))
    job = options.submit(wrapped_jobs.end_at_once, str(path))
    wait_until((tmp_path / "path.begun").exists)
    if how == "cancel":
        pool.cancel(job.id)
    wait_until(path.exists)
    assert "None" == path.read_text()
    assert 3 == pool.submit(jobs.add, 1, 2).result(30)


@pytest.mark.parametrize(
    ("wrapper", "said"),
    [
        ("no_such_module_at_all:x", "the wrapper no_such_module_at_all:x cannot be used: ModuleNotFoundError"),
        (f"{HERE}:missing", f"the wrapper {HERE}:missing cannot be used: AttributeError"),
        (f"{HERE}:trace", f"the wrapper {HERE}:trace cannot be used: procjobs.errors.ConfigurationError"),
        (f"{HERE}:own_trace_in_a_coroutine", "does not return a context manager"),
    ],
)
def test_wrapper_that_cannot_be_used_degrades_the_pool(wrapped, wrapper, said):
    with pytest.warns(procjobs.PoolDegraded) as caught:
        pool = wrapped(wrapper)
        pool.submit(jobs.add, 1, 2)
        wait_until(lambda: said in (pool.stats().problem or ""))
        wait_until(lambda: any(said in str(warning.message) for warning in caught))


@pytest.mark.parametrize("wrappers", [["app.jobs"], ["app:jobs:x"], [5], "app.jobs:x", [""], ["app.jobs:1x"], None])
def test_names_that_cannot_be_wrappers_are_refused(wrappers):
    with pytest.raises(procjobs.ConfigurationError, match="expected functions or their names, such as"):
        procjobs.Pool(wrappers=wrappers)


def test_wrapper_that_cannot_be_pickled_is_refused():
    with open(os.devnull) as file, pytest.raises(procjobs.PayloadError, match=r"the wrapper .* cannot be pickled"):
        procjobs.Pool(wrappers=[lambda job: file])


def test_wrappers_come_from_the_settings_file_and_from_the_environment(tmp_path):
    (tmp_path / "procjobs.toml").write_text(f'[default]\nwrappers = ["{HERE}:inner"]\n')
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    script = (
        "import procjobs; from tests.process import wrapped_jobs as w\n"
        "with procjobs.Pool(workers=1) as pool: print(pool.submit(w.own_trace).result(30))"
    )
    environment = {**os.environ, "PYTHONPATH": root}

    def run(**variables):
        done = subprocess.run(
            [sys.executable, "-c", script], env={**environment, **variables}, cwd=tmp_path, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert ("", 0) == (done.stderr, done.returncode)
        return done.stdout

    assert "('inner',)\n" == run()
    assert "('outer own_trace 1 True', 'inner')\n" == run(PROCJOBS_WRAPPERS=f"{HERE}:outer, {HERE}:inner")


def test_integrations_add_wrappers_in_a_preload(wrapped, code):
    add = "procjobs.add_wrapper(w.inner)"
    code.write("two", also=f"import procjobs, tests.process.wrapped_jobs as w\n{add}\n{add}")
    pool = wrapped(wrapped_jobs.outer, preload=[code.name])
    assert ("inner", "outer own_trace 1 True") == pool.submit(wrapped_jobs.own_trace).result(30)
    with pytest.raises(procjobs.ConfigurationError, match="expected a function of one argument"):
        procjobs.add_wrapper("app.jobs:x")
