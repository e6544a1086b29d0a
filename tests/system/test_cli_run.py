"""`procjobs run` and `submit`: calls from the command line."""

from __future__ import annotations

import json
import os
import signal

import pytest

from ..conftest import wait_until

pytest.importorskip("click")
JOBS = "tests.system.cli_jobs"


def test_result_goes_to_standard_output_and_the_jobs_output_to_standard_error(cli):
    done = cli("run", f"{JOBS}:say", "hello")
    assert (0, "HELLO\n", "hello\n") == (done.returncode, done.stdout, done.stderr)


def test_arguments_are_json_or_else_text(cli):
    words = ["3", "in.mp4", "[1, null]", '"3"', "--kw", "size=256", "--kw", "to=a=b", "--", "-1"]
    done = cli.json("run", f"{JOBS}:echo", *words)
    assert {"args": [3, "in.mp4", [1, None], "3", -1], "kwargs": {"size": 256, "to": "a=b"}} == done["result"]
    assert ("succeeded", "private", None) == (done["state"], done["pool"], done["exception"])


def test_failed_job_shows_its_traceback_and_exits_with_1(cli):
    done = cli("run", f"{JOBS}:fail", "no such film")
    assert (1, "") == (done.returncode, done.stdout)
    assert 'raise ValueError(text)\nValueError: no such film\n' in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("procjobs: job ")
    assert last.endswith("fail failed (raised): ValueError: no such film")


def test_failed_job_is_an_answer_in_json(cli):
    done = cli("run", f"{JOBS}:die", "--json", "--name", "film")
    document = json.loads(done.stdout)
    assert (1, "film", "failed", "crashed") == (done.returncode, document["name"], document["state"], document["reason"])
    assert "WorkerCrashed" == document["exception"]["type"]


def test_options_are_the_jobs(cli):
    done = cli("run", f"{JOBS}:wait_for", "/nowhere", "--timeout", "0.1", "--grace-period", "0.1", "--json")
    assert (1, "timeout") == (done.returncode, json.loads(done.stdout)["reason"])


def test_modules_of_the_current_directory_are_found(cli, tmp_path):
    (tmp_path / "my_own_jobs.py").write_text("def double(n):\n    return 2 * n\n")
    done = cli("run", "my_own_jobs:double", "21", cwd=tmp_path)
    assert (0, "42\n") == (done.returncode, done.stdout), done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nosuchmodule:f"], "nosuchmodule cannot be imported: ModuleNotFoundError"),
        (["math:factoriel", "3"], "math has no factoriel\n  hint: there is factorial"),
        (["math"], "'math' is not MODULE:FUNCTION"),
        (["math:pi"], "math:pi is not a function but float"),
        (["math:sqrt", "--kw", "x"], "'x' is no keyword argument: give NAME=VALUE"),
        (["math:sqrt", "--retries", "-1"], "retries=-1"),
        (["math:sqrt", "--max-rss", "much"], "'much' is no size"),
    ],
    ids=str,
)
def test_invalid_call_is_a_wrong_command_line(cli, arguments, said):
    done = cli("run", *arguments)
    assert (2, "") == (done.returncode, done.stdout)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_bar_shows_the_progress_below_the_output_of_the_job(cli, tmp_path):
    terminal = cli.terminal("run", f"{JOBS}:wait_for", tmp_path / "come", "one line", "--name", "film [1].mp4")
    terminal.wait_for("one line\n", "film [1].mp4", "running", "━", "25% waiting")
    (tmp_path / "come").touch()
    assert 0 == terminal.wait()
    assert terminal.text.rstrip().endswith("it came")
    assert terminal.before == terminal.settings()


def test_ctrl_c_cancels_the_job_and_waits_for_its_end(cli, tmp_path):
    terminal = cli.terminal("run", f"{JOBS}:hang", tmp_path / "begun", tmp_path / "ended")
    wait_until((tmp_path / "begun").exists)
    terminal.press("\x03")
    assert 130 == terminal.wait()
    assert (tmp_path / "ended").exists()
    assert "is cancelled" in terminal.text


def test_second_ctrl_c_kills_a_job_that_does_not_end(cli, tmp_path):
    terminal = cli.terminal("run", f"{JOBS}:hang_stubbornly", tmp_path / "begun", "--grace-period", "600")
    wait_until((tmp_path / "begun").exists)
    terminal.press("\x03")
    terminal.wait_for("Ctrl-C again")
    terminal.press("\x03")
    assert 130 == terminal.wait()
    pid = int((tmp_path / "begun").read_text())
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))


def test_job_whose_supervisor_is_killed_is_lost(cli, tmp_path):
    running = cli.begin("run", f"{JOBS}:hang_stubbornly", tmp_path / "begun")
    wait_until((tmp_path / "begun").exists)
    (pool,) = cli.json("status")
    os.kill(pool["supervisor_pid"], signal.SIGKILL)
    out, err = running.communicate(timeout=30)
    assert (1, "") == (running.returncode, out)
    assert " is lost: SupervisorLost: " in err


def test_job_runs_in_the_named_pool_and_its_output_is_shown(cli):
    pool = cli.pool()
    done = cli("run", "--pool", "media", f"{JOBS}:say", "hello")
    assert (0, "HELLO\n", "hello\n") == (done.returncode, done.stdout, done.stderr)
    assert ["succeeded"] == [job.state for job in pool.jobs()]


def test_submitted_job_is_known_by_its_id_alone(cli):
    cli.pool()
    job_id = cli("submit", "-p", "media", f"{JOBS}:say", "hello", "--name", "greeting").stdout.strip()
    watched = cli("watch", job_id)
    assert (0, "HELLO\n") == (watched.returncode, watched.stdout)
    assert f"{job_id} succeeded" in watched.stderr
    assert ("greeting", "media") == tuple(cli.json("status", job_id)[key] for key in ("name", "pool"))
    assert "hello\n" == cli("logs", job_id).stdout


def test_submitted_job_that_fails_at_once_has_an_id(cli):
    cli.pool()
    for _ in range(5):  # where it had ended before its acceptance was read, its error was taken for a refusal
        done = cli("submit", "-p", "media", f"{JOBS}:fail", "no frames")
        assert (0, 36) == (done.returncode, len(done.stdout.strip())), done.stderr


def test_submit_starts_the_pool_that_it_names(cli):
    job_id = cli.json("submit", "-p", "fresh", f"{JOBS}:say", "hello")["id"]
    assert 0 == cli("watch", job_id).returncode


def test_refused_submit_shows_the_reason(cli, tmp_path):
    pool = cli.pool(max_queued=1)
    pool.pause()
    cli("submit", "-p", "media", f"{JOBS}:say", "first")
    done = cli("submit", "-p", "media", f"{JOBS}:say", "second")
    assert (1, "") == (done.returncode, done.stdout)
    assert "as many as max_queued allows" in done.stderr
