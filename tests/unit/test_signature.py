"""What procjobs has made is known by its signature, whenever the process that makes or removes it is killed."""

from __future__ import annotations

import os
import threading

import pytest

from procjobs.host import rundir, signature
from procjobs.host.signature import ForeignFileError
from procjobs.store import started_attempts


class Killed(BaseException):
    """The process ended here."""


def take(place):
    lock = rundir.try_lock(place.lock)
    assert lock is not None
    return lock


@pytest.fixture
def place(tmp_path):
    tmp_path.chmod(0o700)
    return rundir.RunDir(str(tmp_path), "d")


def killed_at(monkeypatch, name, number, act):
    """Run until the n-th call of an os function, which is not made any more; return whether it came to that."""
    original, calls = getattr(os, name), []

    def kill_or_call(*args, **options):
        calls.append(args)
        if len(calls) > number:
            raise Killed
        return original(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, kill_or_call)
        try:
            act()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("name", ["mkdir", "open", "write", "link", "symlink", "unlink", "rmdir"])
def test_kill_at_any_step_leaves_what_the_next_one_may_use_and_remove(place, monkeypatch, name):
    """Each step of making and of removing a pool's files is the last one in turn."""

    def live():
        lock = take(place)
        try:
            rundir.make_fresh(place)
            with open(place.log, "w"):
                pass
            rundir.remove(place)
        finally:
            lock.close()

    number = 0
    while killed_at(monkeypatch, name, number, live):
        number += 1
        signature.sweep_parts(place.base)
        lock = take(place)
        rundir.make_fresh(place)
        rundir.remove(place)
        lock.close()
        assert [] == os.listdir(place.base), (name, number)
    assert [] == os.listdir(place.base)


def test_lock_is_made_once_by_many_at_the_same_time(place):
    for _ in range(50):
        barrier, locks = threading.Barrier(4), []

        def compete(barrier=barrier, locks=locks):
            barrier.wait()
            locks.append(rundir.try_lock(place.lock))

        threads = [threading.Thread(target=compete) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (held,) = [lock for lock in locks if lock is not None]
        assert ["d.lock"] == os.listdir(place.base)
        rundir.remove(place)
        held.close()


def test_base_that_another_process_uses_again_while_it_is_removed_keeps_its_signature(tmp_path, monkeypatch):
    base = rundir.find_base(str(tmp_path / "base"))
    rmdir = os.rmdir

    def too_late(path):
        take(rundir.RunDir(base, "d")).close()
        rmdir(path)

    monkeypatch.setattr(os, "rmdir", too_late)
    signature.remove_if_empty(base)
    monkeypatch.undo()
    assert [".procjobs", "d.lock"] == sorted(os.listdir(base))
    rundir.remove(rundir.RunDir(base, "d"))
    assert not os.path.exists(base)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_signature_of_another_user_is_none(place):
    lock = take(place)
    rundir.make_fresh(place)
    os.chown(f"{place.path}/.procjobs", 65534, 65534, follow_symlinks=False)
    assert not signature.is_signed_directory(place.path)
    lock.close()
    os.chown(place.lock, 65534, 65534)
    with pytest.raises(ForeignFileError):
        rundir.try_lock(place.lock)
    assert [] == rundir.list_pools(place.base)


def test_signed_link_is_none(place, tmp_path):
    (tmp_path / "real").mkdir()
    signature.sign_directory(str(tmp_path / "real"))
    (tmp_path / "d").symlink_to("real")
    assert not signature.is_signed_directory(place.path)
    with pytest.raises(ForeignFileError, match="is a link that procjobs did not make"):
        rundir.try_lock(place.lock)


def test_process_mark_in_a_foreign_directory_is_not_read(place):
    os.mkdir(place.path)
    rundir.write_mark(place, "mark")
    assert rundir.read_mark(place) is None
    signature.sign_directory(place.path)
    assert "mark" == rundir.read_mark(place)


def test_begun_attempts_replace_and_remove_no_foreign_file(place, tmp_path):
    (tmp_path / "d.begun").write_text("{}")
    with pytest.raises(ForeignFileError, match=r"d\.begun is a file that procjobs did not make"):
        started_attempts._write(place.begun, {"job": 1})
    started_attempts.StartedAttempts(place, {}).forget()
    assert "{}" == (tmp_path / "d.begun").read_text()
    (tmp_path / "d.begun").unlink()
    started_attempts._write(place.begun, {"job": 1})
    started_attempts._write(place.begun, {"job": 2})
    assert {"job": 2} == started_attempts.read(place)
    started_attempts.StartedAttempts(place, {}).forget()
    assert [] == os.listdir(tmp_path)


def test_empty_base_of_a_process_that_was_killed_before_it_signed_it_goes_with_the_next_pool(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "procjobs").mkdir(mode=0o700)
    base = rundir.find_base()
    assert str(tmp_path / "procjobs") == base
    lock = take(rundir.RunDir(base, "d"))
    rundir.remove(rundir.RunDir(base, "d"))
    lock.close()
    assert not os.path.exists(base)


def test_empty_directory_of_the_user_stays_when_its_last_pool_goes(tmp_path):
    (tmp_path / "procjobs").mkdir(mode=0o700)
    base = rundir.find_base(str(tmp_path / "procjobs"))
    lock = take(rundir.RunDir(base, "d"))
    rundir.remove(rundir.RunDir(base, "d"))
    lock.close()
    assert [] == os.listdir(base)
