"""CPython's own tests of concurrent.futures executors, run on private pools.

They are not copied: they come with the interpreter that runs this, so each version of Python brings its own. What says
the same in other words, or not at all, is in the table below; what we say instead is tested at the end.
"""

import concurrent.futures
import contextlib
import multiprocessing.resource_tracker
import os
import signal
import subprocess
import sys

import psutil
import pytest

from procjobs import JobCancelled, Pool, PoolClosed, RemoteTraceback, WorkerCrashed

from ..conftest import wait_until
from .cpython_tests import PoolExecutor, PoolTestCase, find, leave_out

found = find()
if found is None:
    pytest.skip(
        f"{sys.executable} has no test.test_concurrent_futures: this Python was installed without its own tests",
        allow_module_level=True,
    )
cpython, modules = found

NO_SUCH_INSIDES = "reads private names of ProcessPoolExecutor (_processes, _executor_manager_thread, _call_queue)"
ONE_JOB_NOT_THE_POOL = "a worker's death costs its job, not the pool: there is no BrokenProcessPool"
NO_START_METHOD = "a pool has no mp_context: its workers are always forked from its template"

LEFT_OUT = {
    # ExecutorTest
    "test_max_workers_negative": "wants the words 'max_workers must be greater than 0'; ours below",
    # ProcessPoolExecutorTest
    "test_killed_child": f"{ONE_JOB_NOT_THE_POOL}; ours below",
    "test_traceback": "wants the private class _RemoteTraceback as cause; ours below",
    "test_saturation": NO_SUCH_INSIDES,
    "test_idle_process_reuse_one": f"{NO_SUCH_INSIDES}; a pool starts its workers at once",
    "test_idle_process_reuse_multiple": f"{NO_SUCH_INSIDES}; a pool starts its workers at once",
    "test_max_tasks_per_child": f"{NO_SUCH_INSIDES}; ours below",
    "test_max_tasks_per_child_defaults_to_spawn_context": NO_START_METHOD,
    "test_python_finalization_error": "makes the start of a second thread fail; a pool has one",
    "test_process_fork_from_a_threaded_parent": f"{NO_START_METHOD}, and no thread of the client is ever forked",
    "test_force_shutdown_workers": "terminate_workers and kill_workers (3.14) are Pool.stop",
    "test_force_shutdown_workers_invalid_op": "terminate_workers and kill_workers (3.14) are Pool.stop",
    "test_terminate_workers": "terminate_workers and kill_workers (3.14) are Pool.stop",
    "test_kill_workers": "terminate_workers and kill_workers (3.14) are Pool.stop",
    # ExecutorShutdownTest, ProcessPoolShutdownTest
    "test_submit_after_interpreter_shutdown": "wants the words 'cannot schedule new futures'; ours below",
    "test_cancel_futures": "wants some of 50 jobs to start before they are cancelled; in a pool that is chance; ours below",
    "test_processes_terminate": f"{NO_SUCH_INSIDES}; ours below",
    "test_context_manager_shutdown": f"{NO_SUCH_INSIDES}; ours below",
    "test_del_shutdown": f"{NO_SUCH_INSIDES}; ours below",
    "test_shutdown_no_wait": f"{NO_SUCH_INSIDES}; ours below",
}
"""The tests that are left out, and why. Whole classes and files that are left out:

test_init (InitializerMixin, FailingInitializerMixin): a failing initializer does not break a pool: jobs are kept and
    workers started again, with growing pauses; and it tests with mp_context and shared queues.
test_deadlock: how BrokenProcessPool comes about, by way of the insides of ProcessPoolExecutor.
test_future: Future alone, which Job inherits. test_thread_pool, test_interpreter_pool: other executors.
"""


@pytest.fixture(autouse=True, scope="module")
def resource_tracker():
    """Start what the first multiprocessing.Manager of a process would start, and leave."""
    multiprocessing.resource_tracker.ensure_running()


@leave_out(LEFT_OUT)
class TestExecutor(cpython.ProcessPoolExecutorTest, PoolTestCase):
    pass


@leave_out(LEFT_OUT)
class TestAsCompleted(cpython.AsCompletedTests, PoolTestCase):
    pass


@leave_out(LEFT_OUT)
class TestWait(cpython.WaitTests, PoolTestCase):
    pass


@leave_out(LEFT_OUT)
class TestShutdown(cpython.ProcessPoolShutdownTest, PoolTestCase):
    def setUp(self):
        super().setUp()
        self.run_scripts_with_pool(modules)


# What we say where CPython's tests are left out ---------------------------------------------------------------


def pids_of(pool):
    return [pool.stats().supervisor_pid, *(worker.pid for worker in pool.workers())]


def wait_until_gone(pids):
    processes = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(pid))
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert [] == alive


def fail():
    raise RuntimeError(123)  # some comment


def die_of(signal_number):
    os.kill(os.getpid(), signal_number)


def read_to_end(path):
    with open(path, "rb") as pipe:
        return pipe.read()


@pytest.mark.parametrize("number", [0, -1])
def test_less_than_one_worker_is_a_value_error(number):
    with pytest.raises(ValueError, match=f"max_workers={number}: expected 1"):
        PoolExecutor(max_workers=number)


def test_killed_worker_fails_its_job_and_the_pool_goes_on(pool):
    with pytest.raises(WorkerCrashed) as caught:
        pool.submit(die_of, signal.SIGTERM).result(30)
    assert signal.SIGTERM == caught.value.signal
    assert 256 == pool.submit(pow, 2, 8).result(30)


def test_exception_has_the_workers_traceback_as_cause(pool):
    error = pool.submit(fail).exception(30)
    assert (RuntimeError, (123,)) == (type(error), error.args)
    assert RemoteTraceback is type(error.__cause__)
    assert "raise RuntimeError(123)  # some comment" in str(error.__cause__)


def test_worker_is_replaced_after_max_tasks_per_child():
    with PoolExecutor(1, max_tasks_per_child=3) as pool:
        pids = [pool.submit(os.getpid).result(30) for _ in range(4)]
    assert [pids[0]] * 3 == pids[:3]
    assert pids[3] != pids[0]


def test_submit_after_interpreter_shutdown_is_a_runtime_error():
    script = """if True:
        import atexit
        @atexit.register
        def run_last():
            try:
                pool.submit(id, None)
            except RuntimeError as error:
                print(type(error).__name__)
        from procjobs import Pool
        pool = Pool(max_workers=1)
        pool.submit(id, 42).result()
        """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ("PoolClosed\n", "") == (done.stdout, done.stderr)


def test_leaving_the_context_ends_every_process():
    with Pool(max_workers=5) as pool:
        pids = pids_of(pool)
        assert [5, 4, 3, 2, 1, 0, 1, 2, 3, 4] == list(pool.map(abs, range(-5, 5)))
    assert [] == [pid for pid in pids if psutil.pid_exists(pid)]


def test_shutdown_waits_for_jobs_that_run(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    pool = Pool(max_workers=3)
    jobs = [pool.submit(read_to_end, fifo)]
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        end = thread.submit(pool.shutdown)
        fifo.write_bytes(b"apple")
        end.result(30)
    assert [b"apple"] == [job.result(0) for job in jobs]


def test_shutdown_that_cancels_lets_running_jobs_end(tmp_path):
    fifos = [tmp_path / "0", tmp_path / "1"]
    for fifo in fifos:
        os.mkfifo(fifo)
    pool = Pool(max_workers=2)
    running = [pool.submit(read_to_end, fifo) for fifo in fifos]
    wait_until(lambda: all(job.running() for job in running))
    waiting = [pool.submit(pow, 2, 8) for _ in range(50)]
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        end = thread.submit(pool.shutdown, cancel_futures=True)
        concurrent.futures.wait(waiting, 30)
        assert [True] * 50 == [job.cancelled() for job in waiting]
        for fifo in fifos:
            fifo.write_bytes(b"apple")
        end.result(30)
    assert [b"apple"] * 2 == [job.result(0) for job in running]


def test_shutdown_without_wait_lets_jobs_end_and_then_every_process():
    pool = Pool(max_workers=5)
    results = pool.map(abs, range(-5, 5))
    pids = pids_of(pool)
    pool.shutdown(wait=False)
    assert [5, 4, 3, 2, 1, 0, 1, 2, 3, 4] == list(results)
    pool.shutdown(wait=True)
    wait_until_gone(pids)


def test_cancelled_job_raises_the_cancelled_error_of_futures(pool):
    pool.pause()
    job = pool.submit(id, None)
    assert job.cancel()
    with pytest.raises(concurrent.futures.CancelledError) as caught:
        job.result(0)
    assert JobCancelled is type(caught.value)
    pool.resume()


def test_submit_after_shutdown_says_that_the_pool_is_closed(pool):
    pool.shutdown()
    with pytest.raises(PoolClosed, match="was shut down"):
        pool.submit(pow, 2, 5)
