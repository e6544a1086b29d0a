"""Jobs by id in another process than the one that has submitted them, from the moment when submit() returns."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import uuid

import pytest

import procjobs
from procjobs.client import finding
from procjobs.shared.ids import new_id, to_text
from tests.process import jobs

from ..conftest import wait_until


@contextlib.contextmanager
def held(pid):
    """Stop a process until the end of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Question(threading.Thread):
    """A call in a thread of its own, over another connection than that of the submissions."""

    def __init__(self, pool, call):
        super().__init__()
        self._pool, self._call = pool, call
        self.outcome = None
        self.start()

    def run(self):
        try:
            self.outcome = self._call(self._pool)
        except procjobs.ProcjobsError as error:
            self.outcome = error

    def is_sent(self):
        """Whether the supervisor has the question before it."""
        connection = self._pool._link.connection
        return connection is not None and connection.requests.are_awaited

    def answer(self):
        self.join(30)
        assert not self.is_alive()
        return self.outcome


@pytest.fixture
def two(pool_name):
    """A pool as two processes have it, each with its own connection."""
    with procjobs.Pool(pool_name, workers=1) as first, procjobs.Pool(pool_name) as second:
        first.submit(jobs.add, 1, 2).result(30)
        second.queues()
        yield first, second


CALLS = {
    "status": (lambda pool, job: pool.status(job).name, "wait_for_file"),
    "progress": (lambda pool, job: pool.progress(job), None),
    "job": (lambda pool, job: pool.job(job).name, "wait_for_file"),
    "logs": (lambda pool, job: pool.logs(job), ""),
    "cancel": (lambda pool, job: pool.cancel(job), True),
}


@pytest.mark.parametrize("call", CALLS)
def test_job_is_known_from_the_moment_when_submit_returns(two, call, tmp_path):
    submitter, asker = two
    ask, expected = CALLS[call]
    with held(submitter.stats().supervisor_pid):
        job = submitter.submit(jobs.wait_for_file, str(tmp_path / "go"), 1)
        question = Question(asker, lambda pool: ask(pool, job.id))
        wait_until(question.is_sent)
    answer = question.answer()
    (tmp_path / "go").touch()
    assert expected == (answer.rpartition(".")[2] if expected and isinstance(answer, str) else answer)


def test_question_waits_for_all_that_was_sent_before_it(two):
    """More than the supervisor reads of a client in a turn."""
    submitter, asker = two
    with held(submitter.stats().supervisor_pid):
        job = [submitter.submit(len, bytes([number]) * 4000) for number in range(30)][-1]
        question = Question(asker, lambda pool: pool._link.connect().request("known", ids=[job.raw_id.hex()]))
        wait_until(question.is_sent)
    assert {"known": [job.raw_id.hex()]} == question.answer()


def test_file_that_goes_along_does_not_hide_what_comes_behind_it(two):
    submitter, asker = two
    with held(submitter.stats().supervisor_pid):
        job = [submitter.submit(len, bytes([number]) * 200_000) for number in range(10)][-1]
        question = Question(asker, lambda pool: pool._link.connect().request("known", ids=[job.raw_id.hex()]))
        wait_until(question.is_sent)
    assert {"known": [job.raw_id.hex()]} == question.answer()


def test_ids_of_many_jobs_given_to_another_process(two, pool_name):
    submitter, _ = two
    ids_read, ids_write = os.pipe()
    done_read, done_write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            pool = procjobs.Pool(pool_name)
            for _ in range(300):
                assert "add" == pool.status(os.read(ids_read, 36).decode()).name.rpartition(".")[2]
                os.write(done_write, b".")
            code = 0
        except procjobs.UnknownJob:
            os.write(done_write, b"x" * 300)
        finally:
            os._exit(code)
    for _ in range(300):
        os.write(ids_write, submitter.submit(jobs.add, 1, 2).id.encode())
        assert b"." == os.read(done_read, 1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for fd in (ids_read, ids_write, done_read, done_write):
        os.close(fd)


def test_stopped_supervisor_is_waited_for_within_bounds_and_never_for_an_old_id(two, monkeypatch):
    submitter, asker = two
    old = (int((time.time() - 60) * 1000) << 80 | int.from_bytes(new_id()) & (1 << 80) - 1).to_bytes(16)
    known = submitter.submit(jobs.add, 1, 2)
    known.result(30)
    with held(submitter.stats().supervisor_pid):
        monkeypatch.setattr(finding, "_ASK_TIMEOUT", 60.0)
        with pytest.raises(procjobs.UnknownJob, match="evicted"):
            asker.status(to_text(old))
        assert "succeeded" == asker.status(known.id).state
    with held(submitter.stats().supervisor_pid):
        monkeypatch.setattr(finding, "_ASK_TIMEOUT", 0.2)
        with pytest.raises(procjobs.UnknownJob, match=r"may not have received it yet, .* did not answer within 0.2 s"):
            asker.status(to_text(new_id()))


def test_id_that_nobody_was_given_is_asked_of_nobody(two):
    submitter, asker = two
    ahead = ((int(time.time() * 1000) + 7_200_000) << 80 | int.from_bytes(new_id()) & (1 << 80) - 1).to_bytes(16)
    with held(submitter.stats().supervisor_pid):
        with pytest.raises(procjobs.UnknownJob, match="no UUID of version 7"):
            asker.status(uuid.uuid4())
        with pytest.raises(procjobs.UnknownJob, match="of a time to come"):
            asker.status(to_text(ahead))


def test_id_in_any_form_names_the_job(two):
    submitter, asker = two
    job = submitter.submit(jobs.add, 1, 2)
    job.result(30)
    for form in (job, uuid.UUID(job.id), job.id.upper(), job.id.replace("-", "")):
        assert (job.id, 3) == (asker.status(form).id, asker.job(form).result(30))
        assert ("", False, None) == (asker.logs(form), asker.cancel(form), asker.stack(form))


def test_handle_of_a_job_that_was_not_read_yet_asks_nobody(two):
    submitter, _ = two
    with held(submitter.stats().supervisor_pid):
        job = submitter.submit(jobs.add, 1, 2)
        assert ("queued", False) == (job.status().state, job.running())
    assert 3 == job.result(30)


def test_nonsense_about_jobs_closes_that_connection_alone(two):
    submitter, asker = two
    for nonsense in ({"ids": ["x"]}, {"ids": 5}, {}, {"ids": [None]}):
        with pytest.raises(procjobs.SupervisorLost):
            asker._link.connect().request("known", timeout=30, **nonsense)
    for call in ("cancel", "logs", "stack"):
        with pytest.raises(procjobs.SupervisorLost):
            asker._link.connect().request(call, timeout=30, ids=[])
    assert 3 == submitter.submit(jobs.add, 1, 2).result(30)


# After the pool -------------------------------------------------------------------------------------------


def test_private_pool_answers_after_its_block_what_was_last_known():
    with procjobs.Pool(workers=1) as pool:
        done = pool.submit(jobs.add, 1, 2)
        failed = pool.options(meta={"user": 7}).submit(int, "x")
        reported = pool.submit(jobs.report_and_wait, os.devnull, 3, 4)
    assert ({"user": 7}, True) == (pool.status(failed).meta, "ValueError" in pool.status(failed).error_details)
    assert 3 == pool.progress(reported).value
    assert ("succeeded", "succeeded") == (pool.status(done.id).state, done.status().state)
    assert ("failed", "raised") == pool.status(failed.id)[2:4]
    assert None is pool.progress(done.id)
    with pytest.raises(procjobs.PoolClosed):
        pool.status(to_text(new_id()))
    with pytest.raises(procjobs.PoolClosed):
        pool.submit(jobs.add, 1, 2)


def test_stopped_pool_says_how_its_jobs_have_ended(tmp_path):
    pool = procjobs.Pool(workers=1)
    running = pool.submit(jobs.wait_for_file, str(tmp_path / "go"))
    waiting = pool.submit(jobs.add, 1, 2)
    wait_until(running.running)
    pool.stop()
    assert [("failed", "stopped")] * 2 == [pool.status(job)[2:4] for job in (running, waiting)]


def test_named_pool_that_was_let_go_of_answers_too(pool_name):
    with procjobs.Pool(pool_name, workers=1), procjobs.Pool(pool_name) as other:
        done = other.submit(jobs.add, 1, 2)
    assert "succeeded" == other.status(done).state


# The place in the queue -----------------------------------------------------------------------------------------


def places(pool, jobs_):
    for job in jobs_:
        job.wait_accepted()
    return [pool.status(job.id).ahead for job in jobs_]


@pytest.fixture
def pool():
    """A pool that ends at once also where jobs wait in it, or an assertion that has failed would wait for them."""
    pool = procjobs.Pool(workers=1)
    yield pool
    pool.stop()


def test_status_tells_how_many_jobs_are_ahead(pool):
    pool.pause()
    waiting = [pool.submit(jobs.add, n, 0) for n in range(6)]
    others = [pool.options(delay=60).submit(jobs.add, 1, 1), pool.options(key="k").submit(jobs.add, 1, 1)]
    assert [0, 1, 2, 3, 4, 5, None, None] == places(pool, waiting + others)
    assert 5 == pool.status(waiting[5].id).as_dict()["ahead"]
    assert waiting[0].cancel()
    wait_until(lambda: pool.status(waiting[5].id).ahead == 4)
    assert [None, 0, 1] == places(pool, waiting)[:3]
    assert others[0].cancel()
    pool.resume()
    assert [1, 2, 3, 4, 5] == [job.result() for job in waiting[1:]]
    assert [None] * 6 == [pool.status(job.id).ahead for job in waiting]


def test_place_is_not_told_where_it_depends_on_priorities(pool):
    pool.pause()
    waiting = [pool.submit(jobs.add, n, 0) for n in range(3)]
    assert [0, 1, 2] == places(pool, waiting)
    first = pool.options(priority=5).submit(jobs.add, 1, 1)
    assert [None] * 4 == places(pool, [*waiting, first])
    pool.resume()
    assert [0, 1, 2, 2] == [job.result() for job in [*waiting, first]]
    pool.pause()
    again = [pool.submit(jobs.add, n, 0) for n in range(3)]
    assert [0, 1, 2] == places(pool, again)
    pool.resume()


def test_job_that_waits_once_more_is_ahead_of_those_that_come_after_it(pool, tmp_path):
    failing = pool.options(retries=1, backoff=0.01).submit(jobs.wait_for_file_and_fail, str(tmp_path / "go"))
    wait_until(lambda: pool.status(failing.id).state == "running")
    pool.pause()
    (tmp_path / "go").touch()
    wait_until(lambda: pool.status(failing.id).state == "queued")
    waiting = pool.submit_many([procjobs.Call(jobs.add, n) for n in range(4)])
    assert [None, 1, 2, 3, 4] == places(pool, [failing, *waiting])
    pool.resume()
    assert [0, 1, 2, 3] == [job.result() for job in waiting]
    assert isinstance(failing.exception(), ValueError)
