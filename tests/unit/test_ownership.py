"""Whose directories a pool may be in, and that none of them is changed."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from procjobs.errors import SupervisorError
from procjobs.host import ownership, rundir

STRANGER = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


def make(path, mode):
    path.mkdir()
    path.chmod(mode)  # mkdir would take the umask off it
    return path


def mode_of(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755])
def test_directory_that_others_may_only_read_is_taken_as_it_is(tmp_path, mode):
    base = make(tmp_path / "run", mode)
    assert str(base) == rundir.find_base(str(base))
    assert [str(base)] == rundir.existing_bases(str(base))
    assert mode == mode_of(base)


@pytest.mark.parametrize(
    ("mode", "advice"),
    [(0o777, "chmod go-w"), (0o702, "chmod go-w"), (0o1777, "take a directory of your own in it")],
)
def test_directory_that_others_may_write_to_is_refused_and_not_changed(tmp_path, monkeypatch, mode, advice):
    monkeypatch.setattr(ownership, "_is_roots", lambda _info: False)  # the user's own
    base = make(tmp_path / "run", mode)
    for find in (rundir.find_base, rundir.existing_bases):
        with pytest.raises(SupervisorError, match=f"other users may write to it .mode {mode:o}.: {advice}"):
            find(str(base))
    assert (mode, []) == (mode_of(base), os.listdir(base))


def test_directory_in_a_shared_sticky_one_is_made_for_the_user_alone(tmp_path):
    base = make(tmp_path / "shared", 0o1777) / "mine"
    assert str(base) == rundir.find_base(str(base))
    assert 0o700 == mode_of(base)


@pytest.mark.parametrize("is_there", [True, False])
def test_directory_below_one_whose_entries_others_may_rename_is_refused(tmp_path, is_there):
    middle = make(make(tmp_path / "shared", 0o777) / "middle", 0o700)
    base = middle / "run"
    if is_there:
        make(base, 0o700)
    with pytest.raises(SupervisorError, match=r"other users may replace it: .*/shared has mode 777"):
        rundir.find_base(str(base))
    assert is_there == base.exists()
    assert 0o777 == mode_of(tmp_path / "shared")


def test_symbolic_link_leads_nowhere_that_a_plain_path_may_not(tmp_path):
    shared = make(tmp_path / "shared", 0o777)
    make(shared / "run", 0o700)
    (tmp_path / "link").symlink_to("shared/../shared")
    with pytest.raises(OSError, match="/shared has mode 777"):
        ownership.check_private_directory(f"{tmp_path}/link/run")
    shared.chmod(0o755)
    ownership.check_private_directory(f"{tmp_path}/link/run")


def test_link_that_others_may_replace_is_refused_though_its_target_is_fine(tmp_path):
    make(tmp_path / "run", 0o700)
    (make(tmp_path / "shared", 0o777) / "link").symlink_to(tmp_path)
    with pytest.raises(OSError, match="/shared has mode 777"):
        ownership.check_private_directory(f"{tmp_path}/shared/link/run")


def test_links_in_a_circle_are_an_error_and_no_endless_loop(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        ownership.check_way(f"{tmp_path}/a/run")


def test_group_of_several_users_may_not_write(tmp_path, monkeypatch):
    base = make(tmp_path / "run", 0o770)
    monkeypatch.setattr(ownership, "_is_private_group", lambda gid: gid != os.lstat(base).st_gid)
    with pytest.raises(OSError, match="other users may write"):
        ownership.check_private_directory(str(base))
    monkeypatch.setattr(ownership, "_is_private_group", lambda _gid: True)
    ownership.check_private_directory(str(base))


@needs_root
def test_directory_of_another_user_or_below_one_is_refused(tmp_path):
    theirs = make(tmp_path / "theirs", 0o755)
    make(theirs / "run", 0o700)
    os.chown(theirs, STRANGER, STRANGER)
    for find in (rundir.find_base, rundir.existing_bases):
        with pytest.raises(SupervisorError, match=rf"/theirs.*: it belongs to user {STRANGER}, not to 0"):
            find(str(theirs))
        with pytest.raises(SupervisorError, match=f"/theirs, on the way to it, belongs to user {STRANGER}, who may repl"):
            find(str(theirs / "run"))


@needs_root
def test_runtime_directory_of_another_user_is_refused_in_words_and_left_alone(tmp_path, monkeypatch):
    os.chown(make(tmp_path / "theirs", 0o700), STRANGER, STRANGER)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "theirs"))
    with pytest.raises(SupervisorError, match=rf"XDG_RUNTIME_DIR cannot be used: .* belongs to user {STRANGER}.*`su -`"):
        rundir.find_base()
    assert [] == os.listdir(tmp_path / "theirs")
    assert str(tmp_path / "theirs" / "procjobs") not in rundir.existing_bases()


def test_runtime_directory_that_others_may_rename_is_refused(tmp_path, monkeypatch):
    make(make(tmp_path / "shared", 0o777) / "run", 0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "shared" / "run"))
    with pytest.raises(SupervisorError, match=r"XDG_RUNTIME_DIR cannot be used: .*/shared has mode 777 .chmod"):
        rundir.find_base()


def test_runtime_directory_that_is_not_there_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    assert not rundir.find_base().startswith(str(tmp_path))


@pytest.fixture(params=[0o777, 0o1777, 0o2775], ids=["777", "1777", "2775"])
def volume(tmp_path, monkeypatch, request):
    """A directory of root's that several users may write to, as an orchestrator mounts it into a container."""
    volume = make(tmp_path / "volume", request.param)
    if request.param == 0o2775:
        monkeypatch.setattr(ownership, "_is_private_group", lambda gid: gid != os.lstat(volume).st_gid)
    monkeypatch.setattr(ownership, "_is_roots", lambda info: info.st_ino == os.lstat(volume).st_ino)
    yield volume
    assert request.param == mode_of(volume)


def test_volume_of_roots_gets_a_directory_for_the_user_alone(volume, monkeypatch):
    own = volume / f"procjobs-{os.geteuid()}"
    assert str(own) == rundir.find_base(str(volume))
    assert (0o700, os.geteuid()) == (mode_of(own), own.stat().st_uid)
    assert [str(own)] == rundir.existing_bases(str(volume))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(volume))
    assert str(own) == rundir.find_base() == rundir.existing_bases()[0]


def test_no_other_directory_in_a_volume_is_taken(volume):
    if mode_of(volume) & stat.S_ISVTX:
        pytest.skip("nobody can rename what is in a sticky directory")
    make(volume / "run", 0o700)
    with pytest.raises(SupervisorError, match=r"other users may replace it: .*/volume has mode"):
        rundir.find_base(str(volume / "run"))


@needs_root
def test_directory_in_a_volume_that_somebody_else_has_made_first_is_refused(volume):
    theirs = make(volume / f"procjobs-{os.geteuid()}", 0o777)
    os.chown(theirs, STRANGER, STRANGER)
    with pytest.raises(SupervisorError, match=rf"{theirs}: it belongs to user {STRANGER}, not to {os.geteuid()}"):
        rundir.find_base(str(volume))


def test_link_in_a_volume_to_a_directory_of_the_user_is_refused(volume, tmp_path):
    make(tmp_path / "mine", 0o700)
    (volume / f"procjobs-{os.geteuid()}").symlink_to(tmp_path / "mine")
    with pytest.raises(SupervisorError, match="it is not a directory"):
        rundir.find_base(str(volume))


def test_peer_of_a_socket_is_of_this_user(monkeypatch):
    one, other = socket.socketpair()
    with one, other:
        ownership.check_peer(one)
        monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
        with pytest.raises(ownership.UntrustedError, match=f"not of {STRANGER}"):
            ownership.check_peer(one)
