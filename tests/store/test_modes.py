"""Every file that a pool with a store makes is for this user alone, whatever the umask is."""

from __future__ import annotations

import contextlib
import os
import stat

import pytest

import procjobs

from ..conftest import wait_until
from ..process import jobs

FILES = {
    *("run/procjobs/files.lock", *(f"run/procjobs/files/{name}" for name in ("socket", "table", "log", "log.1", "mark"))),
    *(f"state/procjobs/files.db{end}" for end in ("", "-wal", "-shm")),
}


def report_much_and_wait(path):
    """Print more than one log file holds, and report more than a row of the table does."""
    for _ in range(100):
        print("x" * 20_000)
    jobs.report_and_wait(path, 1, 2, data="x" * 10_000)


@pytest.mark.parametrize("umask", [0, 0o777], ids=["0", "777"])
def test_files_of_a_pool_are_for_this_user_alone_whatever_the_umask(tmp_path, monkeypatch, umask):
    monkeypatch.delenv("PROCJOBS_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "run").mkdir(mode=0o700)
    before = os.umask(umask)
    try:
        pool = procjobs.Pool("files", workers=1, store=True, result_memory_bytes=1)
        try:
            made = look_while_it_runs(pool, tmp_path)
        finally:
            pool.stop()
        made |= modes_below(tmp_path)  # some are made at the end
    finally:
        os.umask(before)
    names = {name: mode for name, (mode, is_directory) in made.items() if not is_directory}
    directories = {name: mode for name, (mode, is_directory) in made.items() if is_directory}
    assert {"run/procjobs", "run/procjobs/files", "state", "state/procjobs"} <= directories.keys()
    assert dict.fromkeys(directories, "700") == directories
    assert names.keys() >= {*FILES, "state/procjobs/files.json"}
    assert [1, 2] == [sum(f"/files/{start}-" in name for name in names) for start in ("data", "results")]
    assert dict.fromkeys(names, "600") == names


def look_while_it_runs(pool, directory):
    for size in (100, 300_000):  # a frame, and a frame with a descriptor
        assert size == len(pool.submit(bytes, size).result(30))
    go = directory / "go"
    job = pool.submit(report_much_and_wait, str(go))
    wait_until(lambda: job.progress() is not None)
    wait_until(lambda: FILES <= modes_below(directory).keys(), dump=lambda: str(modes_below(directory)))
    made = modes_below(directory)
    go.write_text("")
    job.result(30)
    go.unlink()
    return made


def modes_below(directory):
    """Return the mode of each path, and whether it is a directory."""
    found = {}
    state = directory / "state"
    for path in [state, *state.rglob("*"), *(directory / "run").rglob("*")]:
        with contextlib.suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):  # links have no modes
                continue
            found[str(path.relative_to(directory))] = f"{stat.S_IMODE(mode):o}", stat.S_ISDIR(mode)
    return found
