"""`procjobs status`, `jobs`, `workers`, `watch`, `logs`: their answers, and their errors if there is no such pool or job."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from ..conftest import wait_until
from . import cli_jobs
from .conftest import stop_process

pytest.importorskip("click")
JOB = "01a1fd57-cd2f-7ad2-96aa-13760a4968b6"
ON_A_POOL = [
    ["status", "media"], ["jobs", "media"], ["workers", "media"], ["queues", "media"],
    ["kinds", "media"], ["health", "media"],
    ["top", "media"], ["stop", "media"], ["drain", "media"],
    ["pause", "media"], ["resume", "media"], ["resize", "media", "2"], ["reload", "media"],
    ["cancel", JOB, "--pool", "media"], ["logs", JOB, "--pool", "media"], ["watch", JOB, "--pool", "media"],
]  # fmt: skip
ON_A_JOB = [["status", JOB], ["cancel", JOB], ["logs", JOB], ["watch", JOB]]


@pytest.fixture
def running(cli, tmp_path):
    """A pool with a job that runs until a file appears, a waiting job, and a failed job."""
    pool, come = cli.pool(), tmp_path / "come"
    failed = pool.submit(cli_jobs.fail, "no such film")
    assert failed.exception(30)
    running = pool.options(name="film.mp4").submit(cli_jobs.wait_for, str(come), "one line")
    waiting = pool.submit(cli_jobs.wait_for, str(come))
    wait_until(lambda: running.status().progress and "one line" in pool.logs(running.id))
    yield SimpleNamespace(pool=pool, come=come, failed=failed, running=running, waiting=waiting)
    come.touch()


@pytest.mark.parametrize("command", ON_A_POOL, ids=" ".join)
def test_pool_that_is_not_running_is_one_line_and_a_hint_and_is_not_started(cli, command):
    done = cli(*command)
    expected = "procjobs: pool 'media' is not running\n  hint: start it with `procjobs start media`\n"
    assert (3, "", expected) == (done.returncode, done.stdout, done.stderr)
    assert not os.path.exists(cli.base)


@pytest.mark.parametrize("command", ON_A_JOB, ids=" ".join)
def test_unknown_job_is_one_line_and_a_hint(cli, command):
    done = cli(*command)
    assert (4, "") == (done.returncode, done.stdout)
    said, hint = done.stderr.splitlines()
    assert f"procjobs: job {JOB} is not known to any pool of this user" == said
    assert hint.startswith("  hint: ")


def test_invalid_job_id_has_another_message_than_an_unknown_one(cli):
    done = cli("cancel", "my job")
    assert (4, True) == (done.returncode, done.stderr.startswith("procjobs: 'my job' is no job id\n  hint: "))


def test_error_with_json_is_a_document_on_standard_error(cli):
    done = cli("status", "media", "--json")
    assert (3, "") == (done.returncode, done.stdout)
    expected = {"error": "pool 'media' is not running", "hint": "start it with `procjobs start media`"}
    assert expected == json.loads(done.stderr)


def test_no_pool_at_all_is_an_answer(cli):
    done = cli("status")
    assert (0, "no pool is running\n") == (done.returncode, done.stdout)
    assert [] == cli.json("status")
    assert [] == cli.json("jobs")


def test_status_of_a_pool_shows_its_workers_and_running_jobs(cli, running):
    document = cli.json("status", "media")
    shown = {key: document[key] for key in ("pool", "state", "workers", "busy", "queued", "finished", "failed")}
    assert {"pool": "media", "state": "running", "workers": 1, "busy": 1, "queued": 1, "finished": 1, "failed": 1} == shown
    assert [running.running.id] == [job["id"] for job in document["running"]]
    text = cli("status", "media").stdout
    assert "workers:  1: 1 busy, 0 idle\nwaiting:  1 queued, 0 scheduled\n" in text
    assert "25% waiting" in text


def test_status_of_a_job_shows_its_progress(cli, running):
    done = cli("status", running.running.id)
    assert "name:      film.mp4\npool:      media\nstate:     running\n" in done.stdout
    assert "progress:  1 of 4 (25%), waiting" in done.stdout


def test_job_is_found_by_the_end_of_its_id(cli, running):
    cli.pool("another")
    assert running.failed.id == cli.json("status", running.failed.id[-8:])["id"]


def test_part_of_several_ids_is_refused(cli, running):
    done = cli("cancel", running.failed.id[:8])
    assert (4, True) == (done.returncode, "is part of 3 job ids" in done.stderr)


def test_jobs_lists_the_newest_first_and_by_state(cli, running):
    expected = [running.waiting.id, running.running.id, running.failed.id]
    assert expected == [job["id"] for job in cli.json("jobs")]
    assert [running.failed.id] == [job["id"] for job in cli.json("jobs", "media", "--state", "failed")]
    lines = cli("jobs", "media").stdout.splitlines()
    assert ["JOB", "STATE", "SUBMITTED", "TOOK", "NAME", "DETAIL"] == lines[0].split()
    assert expected == [line.split()[0] for line in lines[1:]]
    assert lines[3].endswith("ValueError: no such film")


def test_workers_are_listed_with_their_jobs(cli, running):
    (worker,) = cli.json("workers", "media")
    assert ("busy", running.running.id) == (worker["state"], worker["job_id"])
    assert running.running.id in cli("workers").stdout


@pytest.mark.parametrize("command", ["status", "status media", "jobs", "workers", "top", "doctor"])
def test_output_in_a_pipe_is_plain(cli, running, command):
    done = cli(*command.split())
    assert (0, False) == (done.returncode, "\x1b" in done.stdout)


def test_watch_in_a_pipe_writes_a_line_for_each_change(cli, running):
    watching = cli.begin("watch", running.running.id)
    assert f"{running.running.id} running 25% waiting\n" == watching.stderr.readline()
    running.come.touch()
    out, err = watching.communicate(timeout=30)
    assert (0, "it came\n", f"{running.running.id} succeeded 100% waiting\n") == (watching.returncode, out, err)


def test_watch_with_json_writes_lines_of_json(cli, running):
    watching = cli.begin("watch", running.running.id, "--json")
    assert "running" == json.loads(watching.stdout.readline())["state"]
    running.come.touch()
    out, _ = watching.communicate(timeout=30)
    assert (0, ["succeeded"]) == (watching.returncode, [json.loads(line)["state"] for line in out.splitlines()])


def test_watch_on_a_terminal_draws_a_bar_and_ctrl_c_leaves_the_job_alone(cli, running):
    terminal = cli.terminal("watch", running.running.id)
    terminal.wait_for("film.mp4", "━", "25% waiting")
    terminal.press("\x03")
    assert 130 == terminal.wait()
    assert "running" == running.pool.status(running.running.id).state


def test_watch_of_a_failed_job_exits_with_1(cli, running):
    done = cli("watch", running.failed.id)
    assert (1, "") == (done.returncode, done.stdout)
    assert "ValueError: no such film" in done.stderr


def test_logs_follow_a_job_to_its_end(cli, running):
    following = cli.begin("logs", running.running.id, "-f")
    assert "one line\n" == following.stdout.readline()
    running.come.touch()
    out, _ = following.communicate(timeout=30)
    assert (0, "") == (following.returncode, out)
    assert "one line\n" == cli.json("logs", running.running.id)["text"]


@pytest.mark.parametrize("command", [["status", "media"], ["pause", "media"], ["top", "media"]], ids=" ".join)
def test_killed_supervisor_is_one_line_and_a_hint(cli, command):
    pool = cli.pool()
    os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
    wait_until(lambda: "killed" == cli.json("status")[0]["state"])
    done = cli(*command)
    assert (3, "") == (done.returncode, done.stdout)
    said, hint = done.stderr.splitlines()
    assert said.startswith("procjobs: pool 'media' is not running: its supervisor was killed and has left ")
    assert hint.startswith("  hint: `procjobs start media` starts it again")


def test_job_of_a_killed_supervisor_is_lost(cli, running):
    watching = cli.begin("watch", running.running.id)
    assert watching.stderr.readline()
    os.kill(running.pool.stats().supervisor_pid, signal.SIGKILL)
    _, err = watching.communicate(timeout=30)
    assert 3 == watching.returncode
    assert f"job {running.running.id} is lost: the supervisor of pool 'media' has gone" in err


def test_stopped_supervisor_can_be_read_and_does_not_answer(cli):
    pool = cli.pool()
    go_on = stop_process(pool.stats().supervisor_pid)
    try:
        assert "not answering" == cli.json("status", "media")["state"]
        done = cli("pause", "media")
        assert (5, "") == (done.returncode, done.stdout)
        assert "is stopped and does not answer\n  hint: " in done.stderr
    finally:
        go_on()


def test_names_and_ids_are_completed(cli, running):
    def complete(*words):
        line = " ".join(("procjobs", *words))
        answer = cli(_PROCJOBS_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words)))
        return [line.partition(",")[2] for line in answer.stdout.splitlines()]

    assert ["stop", "start", "status"] == sorted(complete("st"), key=("stop", "start", "status").index)
    assert ["media"] == complete("stop", "me")
    assert [running.failed.id] == complete("cancel", running.failed.id[:-1])


def test_pool_is_found_in_each_of_the_usual_places(cli):
    pool = cli.pool(f"test-{os.getpid()}-elsewhere")
    found = cli("status", pool.name, "--json", PROCJOBS_DIRECTORY="")
    assert pool.name == json.loads(found.stdout)["pool"]
    there = cli("status", pool.name, PROCJOBS_DIRECTORY="/dev/null")
    assert 3 == there.returncode


def test_queues_are_listed_with_the_jobs_that_they_hold_back(cli, tmp_path):
    come = str(tmp_path / "come")
    assert "has no queues" in cli("queues", cli.pool("plain").name).stdout
    pool = cli.pool("limited", workers=2, queues={"video": {"limit": 1}, "mail": {"rate": "100/m"}})
    for _ in range(3):
        pool.options(queue="video").submit(cli_jobs.wait_for, come)
    wait_until(lambda: [(1, 2), (0, 0)] == [(queue.running, queue.held) for queue in pool.queues()])
    lines = [line.split() for line in cli("queues", "limited").stdout.splitlines()]
    assert [["video", "1", "2", "1", "-", "1", "-"], ["mail", "0", "0", "-", "100/m", "1", "-"]] == lines[1:]
    assert 2 == json.loads(cli("queues", "limited", "--json").stdout)[0]["held"]
    Path(come).touch()


def test_state_of_the_store_is_shown(cli, tmp_path):
    pool = cli.pool("stored", store=f"sqlite:///{tmp_path}/jobs.db")
    wait_until(lambda: pool.stats().store == "available")
    assert "store:    available" in cli("status", "stored").stdout
    assert "store:" not in cli("status", cli.pool("plain").name).stdout


def test_attempts_of_a_job_are_shown_with_their_tracebacks(cli, running):
    shown = cli("history", running.failed.id).stdout
    assert shown.startswith("attempt 1: raised, worker ")
    assert "in fail" in shown
    assert "no such film" in shown
    document = json.loads(cli("history", running.failed.id, "--json").stdout)
    assert "raised" == document["attempts"][0]["reason"]
    assert "attempt 1: running" in cli("history", running.running.id).stdout
