"""The runner beside tasks of runners that it cannot see: of another host, of an earlier boot, of unknown origin."""

from __future__ import annotations

import json
import os
import sys

import psutil
import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from procjobs.compat.taskhopper import TaskHopper, processes, runner
from procjobs.compat.taskhopper.runner import TaskRunner


def described(**changes):
    return json.dumps({**json.loads(processes.describe(os.getpid())), **changes})


@pytest.mark.parametrize(
    ("changes", "on_this_host", "anywhere"),
    [
        ({}, False, False),
        ({"started": 1}, True, True),
        ({"pool": 2**22 + 1}, True, True),
        ({"namespace": 1}, None, None),
        ({"boot": "another"}, True, None),
        ({"boot": ""}, None, None),
    ],
)
def test_processes_have_ended_where_that_is_certain(changes, on_this_host, anywhere):
    assert on_this_host is processes.has_ended(described(**changes), is_of_this_host=True)
    assert anywhere is processes.has_ended(described(**changes), is_of_this_host=False)


@pytest.mark.parametrize("text", [None, "", "no JSON", "{}", "[]", "5"])
def test_text_that_names_no_runner_says_nothing(text):
    assert None is processes.has_ended(text, is_of_this_host=True)
    assert "an unknown runner" == processes.name_of(text)


def test_process_that_was_forked_and_has_ended_is_gone():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    psutil.Process(pid).wait()
    assert processes.has_ended(described(pool=pid), is_of_this_host=False)


@pytest.mark.parametrize("origin", [{"namespace": 1, "host": "blue"}, {"boot": "another", "host": "blue"}, None])
def test_task_of_a_runner_out_of_sight_runs_when_that_one_has_not_come_back(database_url, tmp_path, monkeypatch, origin):
    monkeypatch.setattr(runner, "OTHER_HOST_TIMEOUT", 1.5)
    (tmp_path / "chores.py").write_text("def sweep(): return 1\n")
    hopper = TaskHopper(database_url, tasks=str(tmp_path / "chores.py"))
    task_id = hopper.add_task("sweep")
    sys.path.remove(str(tmp_path))
    del sys.modules["chores"]
    engine = sa.create_engine(database_url, poolclass=NullPool)
    with engine.begin() as connection:
        values = {"runner": None if origin is None else described(**origin)}
        connection.execute(sa.text("UPDATE task_status SET status = 'running', runner = :runner"), values)
    engine.dispose()
    events = []
    TaskRunner(database_url, str(tmp_path / "chores.py"), tell=events.append).run(until_empty=True)
    told = [event.what for event in events if event.what != "ready"]
    is_at_once = origin is None or (origin.get("boot") and database_url.startswith("sqlite"))
    assert [*([] if is_at_once else ["waiting"]), "queued", "started", "succeeded"] == told
    assert 1 == hopper.task(task_id).result
    if not is_at_once:
        assert "the runner" in events[1].text
        assert "on host blue" in events[1].text
