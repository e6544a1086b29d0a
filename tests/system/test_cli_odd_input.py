"""What a user types by mistake, and results that cannot be shown: one line and an exit code, never a traceback."""

from __future__ import annotations

import json
import os
import pwd

import pytest

import procjobs

from ..waiting import wait_until
from . import cli_jobs

pytest.importorskip("click")
JOBS = "tests.system.cli_jobs"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--workers", "0"), "workers=0: expected 1 to 512"),
        (("--workers", "600"), "workers=600: expected 1 to 512"),
        (("--workers", "9-2"), "workers=(9, 2): the least is more than the most"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "start"])
def test_impossible_number_of_workers_is_a_wrong_command_line(cli, command, option, message):
    done = cli(command, "media", *option)
    assert (2, "", f"procjobs: {message}\n") == (done.returncode, done.stdout, done.stderr)
    assert [] == cli.json("status")


RESULTS = {
    "math:factorial 5000": "<an integer of 54233 bits: hex() in the job makes a text of it>",
    f"{JOBS}:unshowable": "<a result of type Unshowable, whose repr() raises RuntimeError: no repr>",
    f"{JOBS}:list_of_unshowable": "<a result of type list, whose repr() raises RuntimeError: no repr>",
    f"{JOBS}:not_a_number": "nan",
}


@pytest.mark.parametrize("call", RESULTS)
def test_result_that_cannot_be_shown_is_described(cli, call):
    done = cli("run", *call.split())
    assert (0, f"{RESULTS[call]}\n", "") == (done.returncode, done.stdout, done.stderr)
    document = json.loads(cli("run", "--json", *call.split()).stdout, parse_constant=pytest.fail)
    assert RESULTS[call] == document["result"]


def test_exception_that_cannot_be_shown_is_described(cli):
    said = "(its message cannot be shown: str() raises RuntimeError)"
    done = cli("run", f"{JOBS}:raise_unshowable")
    assert 1 == done.returncode
    assert done.stderr.endswith(f"failed (raised): Unspeakable: {said}\n")
    done = cli("run", "--json", f"{JOBS}:raise_unshowable")
    assert (1, said) == (done.returncode, json.loads(done.stdout)["exception"]["message"])


def test_pool_that_submit_has_started_keeps_the_job_as_long_as_results(cli):
    job_id = cli("submit", "-p", "fresh", f"{JOBS}:say", "hello").stdout.strip()
    with procjobs.Pool("fresh", directory=cli.base) as pool:
        settings = pool._link.connect().welcome["settings"]
    assert settings["result_ttl"] == settings["linger"] == 3600.0
    assert cli("watch", job_id).stdout.endswith("HELLO\n")


def test_submit_keeps_to_a_linger_that_is_set_and_tells_how_short_it_is(cli):
    done = cli("submit", "-p", "fresh", f"{JOBS}:say", "hello", PROCJOBS_LINGER="30")
    assert 37 == len(done.stdout)
    assert "pool 'fresh' ends 30s after its last job and client, and knows no id then" in done.stderr


def test_cancel_goes_on_after_an_id_that_is_none(cli, tmp_path):
    pool = cli.pool(workers=1)
    first, second = (pool.submit(cli_jobs.wait_for, str(tmp_path / "never")) for _ in range(2))
    done = cli("cancel", first.id, "garbage", second.id)
    assert (4, f"job {first.id} is cancelled\njob {second.id} is cancelled\n") == (done.returncode, done.stdout)
    assert done.stderr.startswith("procjobs: 'garbage' is no job id\n")
    wait_until(lambda: first.cancelled() and second.cancelled())  # this process is told after the command
    unknown = "00000000-0000-7000-8000-000000000000"
    done = cli("cancel", "--json", unknown, first.id)
    documents = json.loads(done.stdout)
    assert (1, [unknown, first.id]) == (done.returncode, [document["id"] for document in documents])
    assert f"job {unknown} is not known" in documents[0]["error"]


def test_drain_that_takes_too_long_counts_one_job_as_one(cli, tmp_path):
    job = cli.pool(workers=1).submit(cli_jobs.wait_for, str(tmp_path / "never"))
    job.wait_accepted()
    done = cli("drain", "media", "--wait", "--timeout", "0.2")
    assert "has not ended within 0.2 s: 1 job is left\n" in done.stderr


def test_preload_that_fails_is_told_once(cli):
    done = cli("start", "media", "--preload", "no_such_module_at_all")
    assert 1 == done.stderr.count("preload of")
    assert 1 == done.stderr.count("No module named")
    assert 1 == cli("status", "media").stdout.count("No module named")


def test_status_of_a_directory_tells_whose_pools_are_there(cli, tmp_path):
    missing = cli("status", "--directory", str(tmp_path / "missing" / "pools"))
    assert f"no pool is running: this user sees no directory in which {tmp_path}/missing/pools" in missing.stdout
    if os.geteuid():
        pytest.skip("only root can make a directory of another user")
    shared = tmp_path / "volume"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "procjobs-65534").mkdir(mode=0o700)
    os.chown(shared / "procjobs-65534", 65534, 65534)
    said = cli("status", "--directory", str(shared)).stdout
    assert f"{shared}/procjobs-65534 (user {pwd.getpwuid(65534).pw_name})" in said
    assert said.startswith("no pool of this user is running")
