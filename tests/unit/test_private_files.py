"""Files and directories of our own are private whatever the umask is; those of others stay as they are."""

from __future__ import annotations

import os
import stat

import pytest

from procjobs.host import footprints
from procjobs.host.observe import WorkerPeaks
from procjobs.settings import editor
from procjobs.shared import private_files
from procjobs.store import started_attempts


@pytest.fixture(params=[0, 0o022, 0o777], ids=["umask-0", "umask-022", "umask-777"])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode_of(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.usefixtures("umask")
def test_new_files_are_for_this_user_alone(tmp_path):
    for name, make in [("new", private_files.create), ("opened", private_files.open_or_create)]:
        fd = make(str(tmp_path / name))
        os.write(fd, b"text")
        os.close(fd)
        assert (0o600, "text") == (mode_of(tmp_path / name), (tmp_path / name).read_text())


@pytest.mark.usefixtures("umask")
def test_new_directories_are_for_this_user_alone(tmp_path):
    private_files.make_directories(str(tmp_path / "a/b/c"))
    private_files.make_directories(str(tmp_path / "a/b/c"))
    (tmp_path / "a/file").touch()
    with pytest.raises(FileExistsError):
        private_files.make_directories(str(tmp_path / "a/file"))
    assert [0o700] * 3 == [mode_of(tmp_path / path) for path in ("a", "a/b", "a/b/c")]


@pytest.mark.usefixtures("umask")
def test_what_was_there_before_keeps_its_mode(tmp_path):
    path, directory = tmp_path / "file", tmp_path / "directory"
    path.write_text("theirs")
    path.chmod(0o644)
    directory.mkdir()
    directory.chmod(0o755)
    os.close(private_files.open_or_create(str(path)))
    private_files.make_directories(str(directory))
    with pytest.raises(FileExistsError):
        private_files.make_directory(str(directory))
    with pytest.raises(FileExistsError):
        private_files.create(str(path))
    assert (0o644, 0o755, "theirs") == (mode_of(path), mode_of(directory), path.read_text())


def test_file_in_the_place_of_a_new_one_is_removed_and_not_written_through(tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    os.close(private_files.create(str(tmp_path / "link"), replace=True))
    assert (False, "theirs") == ((tmp_path / "link").is_symlink(), (tmp_path / "theirs").read_text())


@pytest.mark.usefixtures("umask")
def test_link_to_a_file_that_is_not_there_yet_makes_that_file(tmp_path):
    (tmp_path / "link").symlink_to("target")
    os.close(private_files.open_or_create(str(tmp_path / "link")))
    assert 0o600 == mode_of(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic link"):
        private_files.open_or_create(str(tmp_path / "link"), os.O_NOFOLLOW)


@pytest.mark.usefixtures("umask")
def test_files_beside_a_running_pool_are_private(tmp_path, monkeypatch):
    """The others are looked at while a pool runs (tests/store)."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    peaks = WorkerPeaks()
    peaks.add(2**20, 2**21, 0)
    footprints.remember("pool", peaks)
    started_attempts._write(str(tmp_path / "pool.begun"), {"id": 1})
    editor.write_workers(editor.Place(tmp_path / "procjobs.toml"), "pool", 3)
    files = ["state/procjobs/pool.json", "pool.begun", "procjobs.toml"]
    assert [0o700, 0o700] == [mode_of(tmp_path / path) for path in ("state", "state/procjobs")]
    assert dict.fromkeys(files, 0o600) == {path: mode_of(tmp_path / path) for path in files}
