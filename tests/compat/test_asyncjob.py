"""tgext.asyncjob's interface: what an application written for it relies on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa

import procjobs
from procjobs.compat import asyncjob
from procjobs.compat.asyncjob import (
    asyncjob_get_progress,
    asyncjob_perform,
    asyncjob_running_uid,
    asyncjob_set_progress,
    asyncjob_timed_query,
)
from procjobs.compat.asyncjob.progress import asyncjobs_progress_status
from procjobs.compat.asyncjob.trackers.memory import MemoryProgressTracker
from procjobs.compat.asyncjob.trackers.redisdb import RedisProgressTracker
from tests.compat.asyncjob_model import DBSession, Part, Thing
from tests.compat.conftest import stop_asyncjob
from tests.conftest import wait_until
from tests.process.jobs import wait_for_file
from tests.sql.models import Database

STATE = {"lock": threading.Lock(), "number": 17}  # a global that cannot be pickled, as engines and registries cannot


@pytest.fixture(params=["memory", "redis"])
def tracker(request):
    """None for the default, or a tracker on a real Redis server."""
    if request.param == "memory":
        yield None
        return
    tracker = RedisProgressTracker(port=request.getfixturevalue("redis_server").port)
    yield tracker
    stop_asyncjob()  # with the last answer the entry is removed, over a connection that may be new
    tracker.redis.close()


def wait_for_end(uid):
    wait_until(lambda: asyncjob_get_progress(uid) is None)


def state_of(handle, uid):
    wait_until(lambda: handle.pool.status(uid).done)
    return str(handle.pool.status(uid).state)


# The four behaviours that the original's own tests hold, with each tracker ----------------------------------------


def test_job_that_runs_and_has_not_reported(start_asyncjob, tracker, tmp_path):
    handle, go = start_asyncjob(tracker), str(tmp_path / "go")
    uid = asyncjob_perform(wait_for_file, go)
    wait_until(lambda: handle.pool.status(uid).state == "running")
    assert (-1, None) == asyncjob_get_progress(uid)
    open(go, "w").close()
    wait_for_end(uid)


def test_job_that_has_completed(start_asyncjob, tracker):
    handle = start_asyncjob(tracker)
    uid = asyncjob_perform(lambda: None)
    wait_for_end(uid)
    assert "succeeded" == state_of(handle, uid)


@pytest.mark.parametrize("data", [{"hello": "àèìòù"}, None, "text", [1, 2]])
def test_job_that_reports(start_asyncjob, tracker, tmp_path, data):
    start_asyncjob(tracker)
    go = str(tmp_path / "go")

    def report():
        asyncjob_set_progress(50, data)
        wait_for_file(go)

    uid = asyncjob_perform(report)
    wait_until(lambda: asyncjob_get_progress(uid) != (-1, None))
    assert (50, data) == asyncjob_get_progress(uid)
    assert "50" == str(asyncjob_get_progress(uid)[0])
    open(go, "w").close()
    wait_for_end(uid)


def test_job_that_raises(start_asyncjob, tracker):
    handle = start_asyncjob(tracker)

    def fail():
        raise ValueError("ERROR")

    uid = asyncjob_perform(fail)
    wait_for_end(uid)
    assert "failed" == state_of(handle, uid)
    assert "ValueError: ERROR" in handle.pool.status(uid).error
    assert f"Exception in async job {uid}" in handle.pool.logs(uid)


# What can be a job -------------------------------------------------------------------------------------------------


class Callable:
    def __init__(self, path):
        self.path = path

    def __call__(self, *args, **kwargs):
        with open(self.path, "w") as file:
            json.dump([args, kwargs], file)

    def method(self, *args, **kwargs):
        self(*args, **kwargs)


@pytest.mark.parametrize("kind", ["closure", "lambda", "instance", "method", "recursive closure", "nested closure"])
def test_any_callable_with_any_keywords(start_asyncjob, tmp_path, kind):
    start_asyncjob()
    path = str(tmp_path / "called")
    target = Callable(path)

    def closure(*args, **kwargs):
        with STATE["lock"]:  # of the module as it is in the worker
            target(*args, **kwargs)

    def recursive(*args, depth=3, **kwargs):
        return recursive(*args, depth=depth - 1, **kwargs) if depth else target(*args, **kwargs)

    def nested(*args, **kwargs):
        assert STATE["number"] == 17
        return closure(*args, **kwargs)

    what = {
        "closure": closure,
        "lambda": lambda *args, **kwargs: closure(*args, **kwargs) or None,
        "instance": target,
        "method": target.method,
        "recursive closure": recursive,
        "nested closure": nested,
    }[kind]
    wait_for_end(asyncjob_perform(what, 1, what=2, key=3, name=4, timeout=5))
    assert [[1], {"what": 2, "key": 3, "name": 4, "timeout": 5}] == json.loads((tmp_path / "called").read_text())


def test_jobs_run_in_the_order_in_which_they_came(start_asyncjob, tmp_path):
    start_asyncjob()
    path = str(tmp_path / "order")

    def append(number):
        with open(path, "a") as file:
            file.write(f"{number} ")

    uids = [asyncjob_perform(append, number) for number in range(20)]
    wait_for_end(uids[-1])
    assert [str(number) for number in range(20)] == (tmp_path / "order").read_text().split()


def test_job_knows_its_uid_and_data_of_any_type_come_back(start_asyncjob, tmp_path):
    start_asyncjob()
    go = str(tmp_path / "go")

    def report():
        asyncjob_set_progress("half", (asyncjob_running_uid(), {1, 2}))
        wait_for_file(go)

    uid = asyncjob_perform(report)
    wait_until(lambda: asyncjob_get_progress(uid) != (-1, None))
    assert ("half", (uid, {1, 2})) == asyncjob_get_progress(uid)
    open(go, "w").close()
    wait_for_end(uid)


def test_job_hands_a_job_over(start_asyncjob, tmp_path):
    start_asyncjob()
    path = str(tmp_path / "done")

    def inner():
        open(path, "w").close()

    def outer():
        asyncjob_perform(inner)

    asyncjob_perform(outer)
    wait_until((tmp_path / "done").exists)


@pytest.mark.parametrize("way", ["SystemExit", "os._exit", "SIGKILL"])
def test_job_that_ends_its_process_ends_nothing_else(start_asyncjob, tracker, way):
    handle = start_asyncjob(tracker)

    def end():
        if way == "SystemExit":
            sys.exit(3)
        os._exit(3) if way == "os._exit" else os.kill(os.getpid(), signal.SIGKILL)

    uid = asyncjob_perform(end)
    wait_for_end(uid)
    assert "failed" == state_of(handle, uid)
    assert "succeeded" == state_of(handle, asyncjob_perform(lambda: None))


def test_what_cannot_be_sent_is_refused_at_once(start_asyncjob):
    start_asyncjob()
    lock = threading.Lock()
    with pytest.raises(procjobs.PayloadError, match="cannot be sent to a worker, which is another process"):
        asyncjob_perform(lambda: lock)
    with pytest.raises(TypeError, match="cannot be called"):
        asyncjob_perform("text")


# Starting ----------------------------------------------------------------------------------------------------------


def test_calls_before_the_start_say_what_to_do(fresh_asyncjob):
    for call in (lambda: asyncjob_perform(print), lambda: asyncjob_get_progress("x")):
        with pytest.raises(procjobs.ConfigurationError, match=r"call start_async_worker\(\)"):
            call()


def test_calls_outside_a_job_say_so(start_asyncjob):
    start_asyncjob()
    for call in (lambda: asyncjob_set_progress(1), asyncjob_running_uid):
        with pytest.raises(procjobs.OutsideJob, match="none is running in this process"):
            call()


def test_start_twice_is_one_pool(start_asyncjob):
    handle = start_asyncjob()
    assert handle is asyncjob.start_async_worker()
    assert handle.is_alive()
    with pytest.raises(procjobs.ConfigurationError, match="was started already"):
        asyncjob.configure(workers=3)


def test_unknown_setting_suggests_the_right_one(fresh_asyncjob):
    with pytest.raises(procjobs.ConfigurationError, match=r"'worker' \(did you mean 'workers'\?\)"):
        asyncjob.configure(worker=3)


def test_queue_of_the_application_takes_jobs(fresh_asyncjob, tmp_path):
    class Globals:
        pass

    asyncjob.configure(name=fresh_asyncjob, workers=1)
    asyncjob.start_async_worker(Globals)
    wait_for_end(Globals.asyncjob_queue.perform(Callable(str(tmp_path / "called")), [1], {"a": 2}))
    assert [[1], {"a": 2}] == json.loads((tmp_path / "called").read_text())


@pytest.mark.parametrize("fork_after_the_start", [True, False])
def test_other_processes_see_the_progress_and_hand_jobs_over(start_asyncjob, tmp_path, fork_after_the_start):
    go = str(tmp_path / "go")
    if fork_after_the_start:
        start_asyncjob()
    pid = os.fork()
    if pid == 0:
        try:
            if not fork_after_the_start:
                start_asyncjob()
            (tmp_path / "uid.new").write_text(asyncjob_perform(wait_for_file, go))
            os.rename(tmp_path / "uid.new", tmp_path / "uid")
            os._exit(0)
        finally:
            os._exit(1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not fork_after_the_start:
        start_asyncjob()
    uid = (tmp_path / "uid").read_text()
    assert (-1, None) == asyncjob_get_progress(uid)
    open(go, "w").close()
    wait_for_end(uid)


# Trackers ----------------------------------------------------------------------------------------------------------


def test_trackers_have_the_originals_methods(redis_server):
    redis = RedisProgressTracker("localhost", redis_server.port, db=3, timeout=10)
    for tracker in (MemoryProgressTracker(), redis):
        assert None is tracker.get_progress("a")
        tracker.track("a")
        assert (-1, None) == tracker.get_progress("a")
        tracker.set_progress("a", 5, "five")
        assert (5, "five") == tracker.get_progress("a")
        tracker.remove("a")
        tracker.remove("a")
        assert None is tracker.get_progress("a")
    redis.redis.close()


def test_entry_in_redis_expires_after_a_report_too(redis_server):
    tracker = RedisProgressTracker(port=redis_server.port, timeout=100)
    tracker.track("b")
    tracker.set_progress("b", 5, None)
    assert 0 < tracker.redis.ttl("b") <= 100
    tracker.redis.close()


def test_tracker_can_be_replaced_after_the_start(start_asyncjob, redis_server, tmp_path):
    start_asyncjob()
    tracker = asyncjobs_progress_status._tracker = RedisProgressTracker(port=redis_server.port)
    go = str(tmp_path / "go")

    def report():
        asyncjob_set_progress(7, "seven")
        wait_for_file(go)

    uid = asyncjob_perform(report)
    wait_until(lambda: tracker.get_progress(uid) == (7, "seven"))
    open(go, "w").close()
    wait_for_end(uid)
    wait_until(lambda: tracker.get_progress(uid) is None)
    stop_asyncjob()
    tracker.redis.close()


def test_tracker_that_stays_in_its_process_is_refused(start_asyncjob):
    class Local:
        lock = None

        def __init__(self):
            self.lock = threading.Lock()

    start_asyncjob(Local())
    with pytest.raises(procjobs.PayloadError, match="the progress tracker cannot be sent"):
        asyncjob_perform(print)


# Transactions ------------------------------------------------------------------------------------------------------


@pytest.fixture
def database(database_url):
    """The application's database, with its registry bound to it in this process."""
    database = Database(database_url)
    engine = sa.create_engine(database_url)
    DBSession.configure(bind=engine)
    yield database
    DBSession.remove()
    DBSession.configure(bind=None)
    engine.dispose()


@pytest.fixture
def application(database, start_asyncjob):
    return start_asyncjob(session="tests.compat.asyncjob_model:DBSession")


def test_job_that_returns_is_committed_before_it_is_seen_as_finished(application, database):
    def add():
        DBSession.add(Thing(id=1, name="new"))

    wait_for_end(asyncjob_perform(add))
    assert {1: "new"} == database.names()


def test_job_that_raises_leaves_the_database_as_it_was(application, database):
    def add():
        DBSession.add(Thing(id=1))
        DBSession.flush()
        raise ValueError

    wait_for_end(asyncjob_perform(add))
    assert {} == database.names()
    assert 0 == database.writers()


def test_failed_commit_is_a_failed_job(application, database):
    def add():
        if DBSession.get_bind().dialect.name == "sqlite":
            DBSession.execute(sa.text("PRAGMA foreign_keys=ON"))
        DBSession.add(Part(id=1, thing_id=99))

    uid = asyncjob_perform(add)
    assert "failed" == state_of(application, uid)
    assert "CommitFailed" in application.pool.status(uid).error


def test_timed_query_waits_for_the_row_of_the_request(application, database, tmp_path):
    looked = str(tmp_path / "looked")

    def change():
        looks = []

        def count(_state):
            looks.append(1)
            if len(looks) == 2:
                open(looked, "w").close()

        sa.event.listen(DBSession(), "do_orm_execute", count)
        thing = asyncjob_timed_query(DBSession.query(Thing).filter_by(id=1)).first()
        thing.name += " changed"

    uid = asyncjob_perform(change)
    wait_until((tmp_path / "looked").exists)
    database.add(1, "late")
    wait_for_end(uid)
    assert {1: "late changed"} == database.names()


def test_timed_query_gives_up_without_an_exception(application, database):
    def look():
        query = DBSession.query(Thing)
        assert query is asyncjob_timed_query(query, retries=2, interval=0.01)
        assert query is asyncjob_timed_query(query, retries=0)

    assert "succeeded" == state_of(application, asyncjob_perform(look))


def test_timed_query_does_not_give_up_changes(application, database):
    def look():
        DBSession.add(Thing(id=1, name="before"))
        asyncjob_timed_query(DBSession.query(Thing).filter_by(id=2), retries=1, interval=0.05)

    wait_for_end(asyncjob_perform(look))
    assert {1: "before"} == database.names()


def test_object_of_the_requests_session_is_refused(application, database):
    database.add(7, "seven")
    thing = DBSession.get(Thing, 7)
    for call in (lambda: asyncjob_perform(print, thing), lambda: asyncjob_perform(lambda: thing)):
        with pytest.raises(procjobs.PayloadError, match=r"pass its primary key \(7\)"):
            call()


def test_wrong_place_of_the_session_is_refused(fresh_asyncjob):
    asyncjob.configure(name=fresh_asyncjob, session="tests.compat.asyncjob_model:DBSessions")
    with pytest.raises(procjobs.ConfigurationError, match="expected 'module:name' of a scoped_session"):
        asyncjob.start_async_worker()


# The alias ---------------------------------------------------------------------------------------------------------

ALIAS = """
import sys, procjobs.compat.asyncjob
procjobs.compat.asyncjob.install()
procjobs.compat.asyncjob.configure(name=sys.argv[1], workers=1, linger=0)
import alias_jobs
alias_jobs.main()
"""
ALIAS_JOBS = """
from tgext.asyncjob import asyncjob_perform, asyncjob_get_progress, start_async_worker, asyncjob_running_uid
from tgext.asyncjob.trackers.memory import MemoryProgressTracker
from tgext.asyncjob.progress import asyncjobs_progress_status
import tgext.asyncjob, sys, time

def main():
    start_async_worker(progress_tracker=MemoryProgressTracker())
    def job(path):
        with open(path, "w") as file:
            file.write(tgext.asyncjob.asyncjob_running_uid())
    uid = asyncjob_perform(job, sys.argv[2])
    while asyncjob_get_progress(uid) is not None:
        time.sleep(0.01)  # job
    print(uid)
"""


def test_alias_makes_unchanged_code_work_in_workers_too(tmp_path, pool_name):
    (tmp_path / "alias_jobs.py").write_text(ALIAS_JOBS)
    (tmp_path / "alias.py").write_text(ALIAS)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "alias.py"), pool_name, str(tmp_path / "uid")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    assert done.stdout.strip() == (tmp_path / "uid").read_text()


def test_alias_refuses_to_come_after_the_original(monkeypatch):
    import types

    original = types.ModuleType("tgext.asyncjob")
    original.__file__ = "/original/__init__.py"
    monkeypatch.setitem(sys.modules, "tgext.asyncjob", original)
    with pytest.raises(procjobs.ConfigurationError, match="was imported already, from /original"):
        asyncjob.install()


