"""A pool's directory, harmed while the pool is in use: who is attached goes on, or gets an error of procjobs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

import procjobs
from procjobs.client.running_pool import find_pools
from tests.process import jobs

from ..conftest import wait_until


@pytest.fixture
def base():
    """A directory for a pool's files; it is empty again when the pool has ended."""
    path = tempfile.mkdtemp(prefix="test-procjobs-", dir="/dev/shm")
    yield path
    for left in (path, path + ".away"):
        with contextlib.suppress(FileNotFoundError):
            if os.path.islink(left):
                os.unlink(left)
            else:
                shutil.rmtree(left)


def remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def empty(path):
    os.truncate(path, 0)


def overwrite(path):
    with open(path, "r+b") as file:
        file.write(os.urandom(os.path.getsize(path) or 100))


def make_directory(path):
    remove(path)
    os.mkdir(path)


def make_symlink(path):
    os.rename(path, path + ".away")
    os.symlink("/none/such", path)


def make_unreadable(path):
    os.chmod(path, 0)


ANY = [remove, make_symlink, make_unreadable]
FILE = [*ANY, empty, overwrite, make_directory]
ALL = bool(os.environ.get("PROCJOBS_FUZZ_FRAMES"))  # the nightly form; in the normal suite what has broken it
HARMS = [
    *[("socket", harm) for harm in [*ANY, make_directory]],
    *[("log", harm) for harm in FILE],
    *[("d.lock", harm) for harm in FILE],
    *[("data-", harm) for harm in FILE],
    *[("results-", harm) for harm in FILE],
    *[("table", harm) for harm in [*ANY, make_directory]],
    *[("d", harm) for harm in ANY],
    *[("", harm) for harm in ANY],
]
if not ALL:
    HARMS = [(name, harm) for name, harm in HARMS if harm is remove or name == "results-"]
    HARMS += [("d.lock", make_directory), ("data-", make_directory), ("data-", overwrite)]


def find(base, name):
    """Return the path of a file of the pool; of those whose names begin so, if it ends in a dash."""
    if name in {"d", "d.lock", ""}:
        return f"{base}/{name}".rstrip("/")
    (path, *_) = [f"{base}/d/{found}" for found in sorted(os.listdir(f"{base}/d")) if found.startswith(name)]
    return path


@pytest.mark.parametrize(("name", "harm"), HARMS, ids=lambda value: getattr(value, "__name__", value))
def test_who_is_attached_goes_on_and_nothing_is_left(base, tmp_path, name, harm):
    pools = [procjobs.Pool("d", directory=base, workers=2, result_memory_bytes=1000) for _ in range(2)]
    supervisor = pools[0].stats().supervisor_pid
    running = pools[0].submit(jobs.report_and_wait, str(tmp_path / "go"), 1, 2, "m" * 500, b"d" * 500)
    wait_until(running.progress)
    kept = [pools[1].submit(jobs.echo, bytes([n]) * 5000) for n in range(3)]
    assert [bytes([n]) * 5000 for n in range(3)] == [job.result(30) for job in kept]
    wait_until(lambda: [found for found in os.listdir(base + "/d") if found.startswith("results-")])
    path = find(base, name)
    harm(path)
    for pool in pools:
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        assert 300_000 == len(pool.submit(jobs.echo, bytes(300_000)).result(30))
        assert ("running", supervisor) == (_status(pool, running, name, harm), pool.stats().supervisor_pid)
        read_back(pool, kept)
    (tmp_path / "go").touch()
    assert 1 == running.result(30)
    with contextlib.suppress(procjobs.ProcjobsError):  # where nobody can say whether the pool has ended
        pools[0].stop()
    for pool in pools[1:]:
        pool.shutdown()
    wait_until(lambda: not os.path.exists(f"/proc/{supervisor}"))
    assert set() == {found for found in left(base) if not f"{base}/{found}".startswith(path)}


def _status(pool, job, name, harm):
    if name == "data-" and harm in {empty, overwrite}:
        return "running"  # what it has reported cannot be unpickled
    return pool.status(job.id).state


def read_back(pool, kept):
    """Read kept results by their ids: each is what it was, or there is an error that says that it is not there."""
    for n, job in enumerate(kept):
        with contextlib.suppress(procjobs.ProcjobsError):
            assert bytes([n]) * 5000 == pool.job(job.id).result(30)


def left(base):
    return os.listdir(base) if os.path.isdir(base) and not os.path.islink(base) else []


@pytest.mark.parametrize("name", ["socket", "table", "d", "d.lock", ""])
def test_new_client_gets_a_pool_after_something_was_removed(base, name):
    first = procjobs.Pool("d", directory=base, workers=1, linger=0.0).connect()
    remove(find(base, name))
    if name == "":
        os.mkdir(base, 0o700)
    if name in {"socket", "d", "table"}:  # the supervisor is there and cannot be found by those who come now
        first.stop()
    second = procjobs.Pool("d", directory=base, workers=1)
    assert 3 == second.submit(jobs.add, 1, 2).result(30)
    first.shutdown()
    second.stop()
    assert [] == left(base)


def test_supervisor_that_was_replaced_leaves_the_files_of_its_successor(base):
    first = procjobs.Pool("d", directory=base, workers=1, linger=0.0)
    gone = first.stats().supervisor_pid
    remove(base)
    os.mkdir(base, 0o700)
    with procjobs.Pool("d", directory=base, workers=1) as second:
        supervisor = second.stats().supervisor_pid
        assert supervisor != gone
        first.shutdown()
        os.kill(gone, signal.SIGTERM)
        wait_until(lambda: not os.path.exists(f"/proc/{gone}"))
        with procjobs.Pool("d", directory=base) as third:
            assert supervisor == third.stats().supervisor_pid
        second.stop()
    assert [] == left(base)


def test_lock_that_cannot_be_opened_is_said(base):
    pool = procjobs.Pool("d", directory=base, workers=1).connect()
    make_directory(base + "/d.lock")
    with pytest.raises(procjobs.SupervisorError, match=r"d\.lock cannot be used"):
        pool.stop()
    with pytest.raises(procjobs.SupervisorError, match=r"d\.lock cannot be used"):
        procjobs.Pool("d", directory=base).connect()
    wait_until(lambda: ["d.lock"] == left(base))


TOUCH = """
import procjobs, sys
pool = procjobs.Pool("d", directory=sys.argv[1]).connect()
job = pool.submit(pow, 2, 3)
print(job.result(30), flush=True)
sys.stdin.readline()
try:
    print(pool.stats().finished)
except procjobs.ProcjobsError as error:
    print(type(error).__name__)
"""


def start_toucher(base):
    script = subprocess.Popen(
        [sys.executable, "-c", TOUCH, base], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "8\n" == script.stdout.readline()
    return script


def test_emptied_table_costs_the_supervisor_and_the_next_call_starts_a_new_one(base, tmp_path):
    pool = procjobs.Pool("d", directory=base, workers=2)
    supervisor = pool.stats().supervisor_pid
    running = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), "unharmed")
    wait_until(running.running)
    connection = pool._link.connection
    empty(base + "/d/table")
    os.kill(supervisor, signal.SIGCHLD)
    with contextlib.suppress(procjobs.SupervisorLost):  # sent without a look at the table, which would be this one's end
        connection.request("resize", workers=[1, 1])
    assert procjobs.SupervisorLost is type(running.exception(30))
    wait_until(lambda: not os.path.exists(f"/proc/{supervisor}"))
    assert 3 == pool.submit(jobs.add, 1, 2).result(30)
    assert supervisor != pool.stats().supervisor_pid
    pool.stop()
    assert [] == left(base)


def test_client_that_reads_an_emptied_table_dies_of_it_and_nobody_else(base):
    """A limit that is known: there is no name under which the table could be sealed. See the report of this branch."""
    pool = procjobs.Pool("d", directory=base, workers=1).connect()
    script = start_toucher(base)
    empty(base + "/d/table")
    script.communicate("go\n", timeout=60)
    assert -signal.SIGBUS == script.returncode
    pool.stop()
    assert [] == left(base)


@pytest.mark.parametrize("content", [bytes, os.urandom], ids=["zeros", "noise"])
def test_overwritten_table_ends_the_supervisor_and_the_next_call_starts_a_new_one(base, content):
    pool = procjobs.Pool("d", directory=base, workers=1, result_ttl=3.0, max_queued=100)
    supervisor = pool.stats().supervisor_pid
    assert list(range(5)) == [pool.submit(jobs.add, n).result(30) for n in range(5)]
    with open(base + "/d/table", "r+b") as table:
        table.write(content(os.path.getsize(base + "/d/table")))
    wait_until(lambda: not os.path.exists(f"/proc/{supervisor}"))
    assert 3 == pool.submit(jobs.add, 1, 2).result(30)
    pool.stop()
    assert [] == left(base)


def test_directory_that_a_service_manager_has_made_keeps_its_mode_and_the_pool_is_closed_to_others(base):
    os.chmod(base, 0o755)
    with procjobs.Pool("d", directory=base, workers=1) as pool:
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        assert ["755", "700"] == [f"{os.stat(path).st_mode & 0o777:o}" for path in (base, base + "/d")]
        pool.stop()
    assert "755" == f"{os.stat(base).st_mode & 0o777:o}"


def test_nothing_of_others_in_the_directory_is_touched(base):
    """As where `directory=` is a project's: what ends in .lock is no pool, and a killed pool is swept up all the same."""
    for name in ("poetry.lock", ".lock", "empty.lock"):
        with open(f"{base}/{name}", "w") as file:
            file.write("" if name == "empty.lock" else "[[package]]\n")
    for name in ("poetry", "empty"):
        os.mkdir(f"{base}/{name}")
        with open(f"{base}/{name}/module.py", "w"):
            pass
    before = tree(base)
    killed = procjobs.Pool("killed", directory=base, workers=1, linger=60)
    os.kill(killed.stats().supervisor_pid, signal.SIGKILL)
    with procjobs.Pool("d", directory=base, workers=1) as pool:
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        assert ["d"] == [place.name for place in find_pools(base)]
        pool.stop()
    killed.shutdown()
    assert before == tree(base)


def tree(base):
    return sorted(os.path.join(place, name) for place, folders, files in os.walk(base) for name in folders + files)


def with_file(path):
    os.mkdir(path)
    with open(path + "/precious", "w") as file:
        file.write("thesis")


def with_copied_signature(path):
    with_file(path)
    os.symlink("mine", path + "/.procjobs")


FOREIGN = {
    "a directory with files": ("d", with_file), "an empty directory": ("d", os.mkdir),
    "one with another .procjobs": ("d", with_copied_signature), "a file": ("d", lambda path: open(path, "w").close()),
    "a link": ("d", lambda path: os.symlink("/none", path)),
    "a lock file": ("d.lock", lambda path: open(path, "w").close()),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_directory_of_the_pools_name_is_refused_in_words(base, kind):
    name, make = FOREIGN[kind]
    make(f"{base}/{name}")
    before = tree(base)
    with pytest.raises(procjobs.SupervisorError) as caught:
        procjobs.Pool("d", directory=base, workers=1).connect()
    assert f"pool 'd' cannot be in {base}: {base}/{name} is a" in str(caught.value)
    assert "that procjobs did not make, and does not touch: give the pool another name" in str(caught.value)
    assert before == tree(base)
    assert [] == find_pools(base)


def test_directory_that_lost_its_signature_is_left_by_its_pool_and_refused_to_the_next(base):
    pool = procjobs.Pool("d", directory=base, workers=1).connect()
    os.unlink(base + "/d/.procjobs")
    assert 3 == pool.submit(jobs.add, 1, 2).result(30)
    pool.stop()
    assert ["d"] == left(base)
    with pytest.raises(procjobs.SupervisorError, match="/d is a directory that procjobs did not make"):
        procjobs.Pool("d", directory=base, workers=1).connect()


@pytest.mark.parametrize("name", ["procjobs", "procjobs-me", "other"])
def test_base_goes_with_the_last_pool_if_procjobs_has_made_it(base, name):
    theirs, ours = f"{base}/theirs/{name}", f"{base}/ours/{name}"
    os.makedirs(theirs, mode=0o700)
    os.mkdir(base + "/ours", mode=0o700)
    for directory in (theirs, ours):
        with procjobs.Pool("d", directory=directory, workers=1) as pool:
            assert 3 == pool.submit(jobs.add, 1, 2).result(30)
            pool.stop()
    assert (True, False) == (os.path.isdir(theirs), os.path.isdir(ours))
    assert [] == os.listdir(theirs)


