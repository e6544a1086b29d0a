"""Submitting, results, payloads, options: what works when nothing goes wrong, and what is refused."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import itertools
import os
import sys
import threading

import numpy as np
import pytest

import procjobs
from tests.process import jobs

from ..conftest import wait_until


def test_result_of_a_call_arrives(pool):
    assert 5 == pool.submit(jobs.add, 2, b=3).result(30)


def test_job_runs_in_another_process(pool):
    assert os.getpid() != pool.submit(jobs.pid).result(30)


def test_exception_arrives_as_itself_with_the_remote_traceback_as_cause(pool):
    error = pool.submit(jobs.fail, "this").exception(30)
    assert (ValueError, ("this",)) == (type(error), error.args)
    assert "in fail" in str(error.__cause__)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 2,
        functools.partial(lambda a, b: a * b, 2),
        functools.partial(jobs.add, 21),
    ],
)
def test_lambdas_partials_and_closures_are_callable(pool, function):
    assert 42 == pool.submit(function, 21).result(30)


def test_bound_method_and_callable_instance(pool):
    class Scale:
        def __init__(self, by):
            self.by = by

        def __call__(self, x):
            return self.by * x

        def method(self, x):
            return self.by + x

    assert (6, 5) == (pool.submit(Scale(2), 3).result(30), pool.submit(Scale(2).method, 3).result(30))


def test_changed_closure_is_sent_afresh(pool):
    state = {"factor": 2}
    number = 1

    def scale(x):
        return state["factor"] * x + number

    results = [pool.submit(scale, 10).result(30)]
    state["factor"] = 3
    results.append(pool.submit(scale, 10).result(30))
    number = 5
    results.append(pool.submit(scale, 10).result(30))
    assert [21, 31, 35] == results


def test_instances_of_main_classes_travel_both_ways(tmp_path):
    import subprocess
    import sys

    script = tmp_path / "script.py"
    script.write_text(
        "import procjobs\n"
        "class Point:\n    def __init__(self, x): self.x = x\n"
        "def double(p): return Point(p.x * 2)\n"
        "if __name__ == '__main__':\n"
        "    with procjobs.Pool(workers=1) as pool:\n"
        "        p = pool.submit(double, Point(21)).result(30)\n"
        "        print(p.x, type(p) is Point)\n"
    )
    out = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert ("42 True\n", "") == (out.stdout, out.stderr)


@pytest.mark.parametrize("size", [10, 70_000, 3_000_000])
def test_bytes_of_any_size_are_echoed(pool, size):
    data = os.urandom(size)
    assert data == pool.submit(jobs.echo, data).result(30)


def test_arrays_arrive_whole_and_writable(pool):
    array = np.arange(1_000_000, dtype="f8").reshape(1000, 1000)
    received = pool.submit(jobs.echo, {"a": array, "b": [array[:10]]}).result(30)
    received["a"][0, 0] = -1.0
    assert (-1.0, 0.0) == (received["a"][0, 0], array[0, 0])
    assert (array[1:] == received["a"][1:]).all()


def test_memoryview_arrives_as_memoryview(pool):
    view = memoryview(bytearray(100_000))
    received = pool.submit(jobs.echo, view).result(30)
    assert (memoryview, 100_000) == (type(received), len(received))


def test_payload_error_names_the_argument_that_cannot_be_pickled(pool):
    with pytest.raises(procjobs.PayloadError, match=r"argument 'b' of tests\.process\.jobs\.add.*generator"):
        pool.submit(jobs.add, 1, b=(i for i in range(3)))
    assert 3 == pool.submit(jobs.add, 1, 2).result(30)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (jobs.return_unpickleable, "result of .*generator.* could not be pickled"),
        (jobs.return_unpicklable_here, "could not be unpickled here"),
        (jobs.raise_bad_error, "BadError: 1 and 2; the exception itself could not be unpickled"),
        (jobs.raise_with_generator, "the exception itself could not be pickled"),
    ],
)
def test_payload_error_costs_only_its_own_job(pool, function, text):
    bad, good = pool.submit(function), pool.submit(jobs.add, 1, 1)
    with pytest.raises(procjobs.PayloadError, match=text):
        bad.result(30)
    assert 2 == good.result(30)


def test_arguments_that_cannot_be_unpickled_in_the_worker(pool):
    with pytest.raises(procjobs.PayloadError, match="could not be unpickled in the worker"):
        pool.submit(jobs.echo, jobs.UnpicklesNowhere()).result(30)


def test_only_workers_and_clients_unpickle(pool, tmp_path):
    trace = str(tmp_path / "trace")
    pool.submit(jobs.echo, jobs.LeavesTrace(trace)).result(30)
    worker_pids = {worker.pid for worker in pool.workers()}
    seen = {int(line) for line in (tmp_path / "trace").read_text().split()}
    assert seen
    assert seen <= worker_pids | {os.getpid()}


def test_map_keeps_order_with_and_without_chunks(pool):
    expected = [i + 10 for i in range(50)]
    assert expected == list(pool.map(jobs.add, range(50), [10] * 50))
    assert expected == list(pool.map(jobs.add, range(50), [10] * 50, chunksize=7))
    assert expected == sorted(pool.map(jobs.add, range(50), [10] * 50, ordered=False, buffersize=8))


def test_map_timeout(pool, tmp_path):
    release = tmp_path / "go"
    results = pool.map(jobs.wait_for_file, [str(release)], timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)


def test_futures_functions_accept_jobs(pool):
    handles = [pool.submit(jobs.add, i) for i in range(5)]
    done, pending = concurrent.futures.wait(handles, timeout=30)
    assert (5, 0) == (len(done), len(pending))
    assert {0, 1, 2, 3, 4} == {job.result() for job in concurrent.futures.as_completed(handles)}


def test_asyncio_run_await_and_executor(pool):
    async def main():
        loop = asyncio.get_running_loop()
        return (
            await pool.run(jobs.add, 1, 2),
            await pool.submit(jobs.add, 3, 4),
            await loop.run_in_executor(pool, jobs.add, 5, 6),
            await asyncio.wrap_future(pool.submit(jobs.add, 7, 8)),
        )

    assert (3, 7, 11, 15) == asyncio.run(main())


def test_cancelling_an_awaited_run_cancels_the_running_job(pool, tmp_path):
    async def main():
        task = asyncio.create_task(pool.run(jobs.report_and_wait, str(tmp_path / "never"), 1, 2))
        while not (running := pool.jobs("running")):
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return running[0].id

    job_id = asyncio.run(main())
    wait_until(lambda: pool.status(job_id).state == "cancelled")


def test_updates_end_with_a_final_status(pool):
    async def main():
        return [s.state async for s in pool.submit(jobs.count, 5).updates(interval=0.005)]

    assert "succeeded" == asyncio.run(main())[-1]


def test_decorated_function_runs_here_and_has_options_there(pool):
    @procjobs.job(retries=2, name="decorated")
    def function():
        return procjobs.current_job() is not None

    assert function() is False
    job = pool.submit(function)
    assert (True, "decorated") == (job.result(30), job.status().name)


def test_context_in_a_job(pool):
    job = pool.options(timeout=60).submit(jobs.context)
    assert (job.id, "tests.process.jobs.context", 1, True, False) == job.result(30)


def test_progress_is_read_by_id_while_it_runs(pool, tmp_path):
    release = tmp_path / "go"
    job = pool.submit(jobs.report_and_wait, str(release), 3, 12, "three", {"k": (1, 2)})
    progress = wait_until(job.progress)
    assert (3, 12, "three", {"k": (1, 2)}, 0.25) == (*progress[:4], progress.fraction)
    assert ("running", 1) == (job.status().state, job.status().attempt)
    release.touch()
    assert 3 == job.result(30)
    assert ("succeeded", None) == (job.status().state, job.status().reason)


def test_large_progress_data_goes_through_a_file(pool, tmp_path):
    message, data = "m" * 5000, list(range(5000))
    job = pool.submit(jobs.report_and_wait, str(tmp_path / "go"), 1, None, message, data)
    progress = wait_until(job.progress)
    assert (message, data, None) == (progress.message, progress.data, progress.total)
    (tmp_path / "go").touch()
    job.result(30)


def test_progress_outside_a_job_does_nothing():
    assert [0, 1, 2] == list(procjobs.track(range(3)))
    assert procjobs.current_job() is None


def test_progress_refuses_what_is_no_number(pool):
    with pytest.raises(TypeError, match="is no number; write"):
        pool.submit(lambda: procjobs.progress("half")).result(30)


def test_track_reports_every_item(pool):
    job = pool.submit(jobs.count, 7)
    job.result(30)
    assert (7, 7, "counting") == job.progress()[:3]


def test_many_threads_submit_at_once(pool):
    results = []

    def work(base):
        results.extend(pool.submit(jobs.add, base + i).result(30) for i in range(50))

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(100 * n + i for n in range(8) for i in range(50)) == sorted(results)


def test_priority_goes_first_and_equal_ones_in_order(tmp_path):
    order, release = tmp_path / "order", tmp_path / "go"
    with procjobs.Pool(workers=1) as pool:
        first = pool.submit(jobs.wait_for_file, str(release))
        wait_until(first.running)
        handles = [pool.submit(jobs.append_name, str(order), n) for n in "ab"]
        handles += [pool.options(priority=5).submit(jobs.append_name, str(order), n) for n in "cd"]
        wait_until(lambda: pool.stats().queued == 4)
        release.touch()
        concurrent.futures.wait(handles, timeout=30)
    assert "cdab" == order.read_text()


def test_delayed_job_is_scheduled_first(pool):
    job = pool.options(delay=0.2).submit(jobs.add, 1)
    wait_until(lambda: job.status().state == "scheduled")
    assert 1 == job.result(30)


def test_expired_job_never_starts(tmp_path):
    with procjobs.Pool(workers=1) as pool:
        blocker = pool.submit(jobs.wait_for_file, str(tmp_path / "go"))
        late = pool.options(expires=0.05).submit(jobs.append_name, str(tmp_path / "trace"), "x")
        with pytest.raises(procjobs.JobExpired):
            late.result(30)
        assert ("expired", "expired") == (late.status().state, late.status().reason)
        (tmp_path / "go").touch()
        blocker.result(30)
    assert not (tmp_path / "trace").exists()


def test_queue_full_names_the_bound(tmp_path):
    with procjobs.Pool(workers=1, max_queued=3) as pool:
        blocker = pool.submit(jobs.wait_for_file, str(tmp_path / "go"))
        wait_until(blocker.running)
        handles = [pool.submit(jobs.add, i) for i in range(3)]
        with pytest.raises(procjobs.QueueFull, match="max_queued") as caught:
            pool.submit(jobs.add, 9)
        assert (3, 3) == (caught.value.queued, caught.value.max_queued)
        (tmp_path / "go").touch()
        assert [0, 1, 2] == [job.result(30) for job in handles]


def test_shutdown_pool_refuses_and_says_so():
    pool = procjobs.Pool(workers=1)
    pool.shutdown()
    with pytest.raises(procjobs.PoolClosed):
        pool.submit(jobs.add, 1)


def test_unknown_job(pool):
    with pytest.raises(procjobs.UnknownJob, match="is not known"):
        pool.status("01234567-89ab-7def-8123-456789abcdef")
    with pytest.raises(procjobs.UnknownJob, match="not a job id"):
        pool.status("nonsense")


@pytest.mark.parametrize(
    "settings",
    [
        {"workers": 0},
        {"workers": (3, 2)},
        {"workers": "many"},
        {"workers": 2, "max_workers": 2},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"retries": -1},
        {"max_queued": 0},
        {"nice": -5},
        {"preload": "numpy"},
        {"name": "../up"},
        {"name": ""},
    ],
)
def test_nonsense_settings_are_refused_before_anything_starts(settings):
    with pytest.raises(procjobs.ConfigurationError):
        procjobs.Pool(**settings)


def test_options_that_contradict_or_are_unknown(pool):
    with pytest.raises(procjobs.ConfigurationError, match="did you mean 'timeout'"):
        pool.options(timeuot=3)
    with pytest.raises(procjobs.ConfigurationError, match="contradict"):
        pool.options(delay=1, at=2.0)


def test_directory_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(procjobs.SupervisorError, match="not a directory"):
        procjobs.Pool(directory=str(tmp_path / "file"))


def test_resize_pause_resume(pool):
    pool.resize(3)
    wait_until(lambda: pool.stats().workers == 3)
    pool.resize(1)
    wait_until(lambda: pool.stats().workers == 1)
    pool.pause()
    job = pool.submit(jobs.add, 1)
    job.wait_accepted(30)
    wait_until(lambda: pool.stats().queued == 1)
    pool.resume()
    assert 1 == job.result(30)


def test_worker_is_replaced_after_its_number_of_jobs():
    with procjobs.Pool(workers=1, max_jobs_per_worker=2) as pool:
        pids = [pool.submit(jobs.pid).result(30) for _ in range(6)]
    assert [2, 2, 2] == [pids.count(pid) for pid in dict.fromkeys(pids)]


def test_initializer_runs_in_every_worker():
    def initialize(value):
        os.environ["PROCJOBS_TEST"] = value

    with procjobs.Pool(workers=1, initializer=initialize, initargs=("yes",)) as pool:
        assert "yes" == pool.submit(os.getenv, "PROCJOBS_TEST").result(30)


def test_preloaded_module_is_there_before_the_job(tmp_path):
    with procjobs.Pool(workers=1, preload=["numpy"]) as pool:
        assert pool.submit(lambda: "numpy" in __import__("sys").modules).result(30)


def test_preload_that_fails_is_told_with_its_traceback():
    with pytest.warns(procjobs.PoolDegraded, match="No module named 'no_such_module'"):
        pool = procjobs.Pool(workers=1, preload=["no_such_module"])
        pool.submit(jobs.add, 1).wait_accepted(30)
        wait_until(lambda: pool.stats().problem)
        pool.stop()


def test_results_beyond_the_memory_bound_are_still_there():
    with procjobs.Pool(workers=2, result_memory_bytes=10_000) as pool:
        small = [pool.submit(jobs.echo, bytes([n]) * 3000) for n in range(20)]
        large = pool.submit(jobs.echo, b"x" * 3_000_000)
        for job in [*small, large]:
            job.result(30)
        again = [pool.job(job.id).result(30) for job in small]
        assert [bytes([n]) * 3000 for n in range(20)] == again
        assert b"x" * 3_000_000 == pool.job(large.id).result(30)


# Exceptions in the places of results ------------------------------------------------------------------------


class Stubborn(Exception):
    """Cannot be pickled."""

    def __reduce__(self):
        raise TypeError("I stay here")


class Lopsided(Exception):
    """Can be pickled, and not be unpickled."""

    def __init__(self, one, two):
        super().__init__(one)


def divide_or_worse(n):
    if n == 5:
        raise Stubborn("five")
    if n == 6:
        raise Lopsided(1, 2)
    if n == 7:
        raise StopIteration
    return 12 // n


async def divide_or_worse_later(n):
    await asyncio.sleep(0)
    return divide_or_worse(n)


@pytest.mark.parametrize("chunksize", [1, 3, 20, "auto"])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("function", [divide_or_worse, divide_or_worse_later])
def test_exceptions_are_yielded_in_the_places_of_results(pool, chunksize, ordered, function):
    numbers = [0, 1, 2, 3, 0, 4, 6, 12, 5]
    outcomes = list(pool.map(function, numbers, chunksize=chunksize, ordered=ordered, return_exceptions=True))
    named = [value if isinstance(value, int) else type(value).__name__ for value in outcomes]
    expected = ["ZeroDivisionError", 12, 6, 4, "ZeroDivisionError", 3, "PayloadError", 1, "PayloadError"]
    assert expected == named if ordered else sorted(map(str, expected)) == sorted(map(str, named))
    first = next(value for value in outcomes if isinstance(value, ZeroDivisionError))
    assert "in divide_or_worse" in str(first.__cause__)


def test_exceptions_of_an_automatic_chunk_leave_its_other_items_alone(pool):
    outcomes = list(pool.map(divmod, range(2000), itertools.cycle([0, 1]), chunksize="auto", return_exceptions=True))
    assert [(n, 0) for n in range(1, 2000, 2)] == outcomes[1::2]
    assert {ZeroDivisionError} == set(map(type, outcomes[::2]))


def test_items_of_a_chunk_whose_worker_crashed_have_that_exception(pool):
    outcomes = list(pool.map(crash_at_three, range(6), chunksize=2, return_exceptions=True))
    assert [0, 1, "WorkerCrashed", "WorkerCrashed", 4, 5] == [v if type(v) is int else type(v).__name__ for v in outcomes]
    assert [0, 1, 2] == list(pool.map(crash_at_three, range(3), return_exceptions=True))


def crash_at_three(n):
    return os._exit(3) if n == 3 else n


def test_deadline_of_map_is_raised_all_the_same(pool, tmp_path):
    release = str(tmp_path / "go")
    results = pool.map(jobs.wait_for_file, [release, release], timeout=0.05, return_exceptions=True, chunksize=2)
    with pytest.raises(TimeoutError):
        list(results)


def test_missing_rich_is_told_before_the_first_job(pool, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(procjobs.ConfigurationError, match=r"progress=True draws with rich: pip install"):
        pool.map(jobs.add, range(3), progress=True)
    assert [] == pool.jobs()


# Chunks that find their size ------------------------------------------------------------------------------


def test_map_with_automatic_chunks_keeps_order_and_length(pool):
    assert [i + 10 for i in range(3000)] == list(pool.map(jobs.add, range(3000), [10] * 4000, chunksize="auto"))
    assert [i + 10 for i in range(300)] == list(pool.map(jobs.add, iter(range(300)), itertools.repeat(10), chunksize="auto"))
    assert [] == list(pool.map(jobs.add, [], [], chunksize="auto"))
    assert list(range(500)) == sorted(pool.map(jobs.add, range(500), chunksize="auto", ordered=False))


def test_map_with_automatic_chunks_takes_items_as_results_are_taken(pool):
    taken = []
    results = pool.map(jobs.add, (taken.append(n) or n for n in range(10**9)), chunksize="auto")
    assert [0, 1, 2] == list(itertools.islice(results, 3))
    assert len(taken) < 5000
    results.close()


def test_error_in_an_automatic_chunk_is_raised(pool):
    with pytest.raises(ZeroDivisionError):
        list(pool.map(divmod, range(100), itertools.repeat(0), chunksize="auto"))


def _niceness():
    with open("/proc/self/autogroup") as file:
        return os.getpriority(os.PRIO_PROCESS, 0), int(file.read().split()[-1])


@pytest.mark.skipif(not os.path.exists("/proc/self/autogroup"), reason="this kernel does not share CPUs out by session")
def test_nice_holds_among_sessions_too():
    with procjobs.Pool(workers=2, nice=7) as pool:
        expected = min(os.nice(0) + 7, 19), 7
        wait_until(lambda: expected == pool.submit(_niceness).result(30))  # the kernel takes ten such changes a second
