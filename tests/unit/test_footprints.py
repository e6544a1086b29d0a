"""What is remembered of a pool's workers, and that nothing written there by anybody else can do harm."""

from __future__ import annotations

import json
import os
import pwd

import pytest

from procjobs.errors import ConfigurationError
from procjobs.host import footprints
from procjobs.host.footprints import path_of, recall, remember
from procjobs.host.observe import WorkerPeaks
from procjobs.host.sizing import UNKNOWN_WORKER_BYTES, Footprint
from procjobs.shared import store_address

MIB = 1 << 20


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def peaks(*worker_bytes, shared=20 * MIB):
    found = WorkerPeaks()
    for count in worker_bytes:
        found.add(shared, shared + count, 0)
    return found


def test_pool_that_was_never_seen_has_the_usual_guess():
    assert Footprint(UNKNOWN_WORKER_BYTES, 0, 0) == recall("media") == recall(None)


def test_worker_that_took_the_most_counts_without_what_all_share():
    remember("media", peaks(30 * MIB, 500 * MIB, 40 * MIB))
    assert Footprint(504 * MIB, 20 * MIB, 1) == recall("media")
    assert 0 == recall("other").runs


def test_processes_that_a_job_has_started_count_where_they_were_seen():
    found = WorkerPeaks()
    found.add(20 * MIB, 25 * MIB, 900 * MIB)
    assert 904 * MIB == found.worker_bytes


@pytest.mark.parametrize(
    ("peak", "own_peak", "expected"),
    [
        pytest.param(320, 320, 24, id="the worker's own, less what all share"),
        pytest.param(321, 320, 25, id="or nearly: the worker went on for a moment"),
        pytest.param(400, 320, 424, id="a child's, and the worker's own"),
        pytest.param(400, 0, 104, id="nobody knows: it was killed"),
    ],
)
def test_peak_of_a_child_is_told_from_the_workers_own(peak, own_peak, expected):
    found = WorkerPeaks()
    found.add(300 * MIB, peak * MIB, 0, own_peak * MIB)
    assert expected * MIB == found.worker_bytes


def test_last_ten_runs_count_and_the_most_of_them():
    for count in (900, 100, 300, *[200] * (footprints.MAX_RUNS - 3)):
        remember("media", peaks(count * MIB))
    assert Footprint(904 * MIB, 20 * MIB, 10) == recall("media")
    remember("media", peaks(200 * MIB))
    assert Footprint(304 * MIB, 20 * MIB, 10) == recall("media")


def test_run_without_a_job_is_none(state):
    remember("media", WorkerPeaks())
    assert [] == list(state.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b'"runs"', b"\xff\xfe", b'{"runs": 3}', b'{"runs": [3, null, "x", {}, []]}',
        b"[" * 60_000,
        b'{"runs": [{"worker_bytes": -1, "shared_bytes": 0}]}', b'{"runs": [{"worker_bytes": true, "shared_bytes": 0}]}',
        b'{"runs": [{"worker_bytes": 1e99, "shared_bytes": 0}]}', b'{"runs": [{"worker_bytes": 5}]}',
        b'{"runs": [{"worker_bytes": ' + b"9" * 5000 + b', "shared_bytes": 0}]}',
    ],
    ids=lambda content: content[:24],
)  # fmt: skip
def test_file_that_is_nonsense_is_no_experience_and_the_next_run_replaces_it(state, content):
    (state / "procjobs").mkdir()
    (state / "procjobs" / "media.json").write_bytes(content)
    assert 0 == recall("media").runs
    remember("media", peaks(MIB))
    assert Footprint(5 * MIB, 20 * MIB, 1) == recall("media")


def test_good_runs_beside_bad_ones_count(state):
    remember("media", peaks(MIB))
    path = state / "procjobs" / "media.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "runs": [*document["runs"], {"worker_bytes": "much"}], "more": 1}))
    assert 1 == recall("media").runs


def test_pipe_in_its_place_does_not_hang(state):
    (state / "procjobs").mkdir()
    os.mkfifo(state / "procjobs" / "media.json")
    assert 0 == recall("media").runs


@pytest.mark.parametrize("place", ["/proc/nothing", "/dev/null"])
def test_directory_that_cannot_be_written_is_no_error(monkeypatch, place):
    monkeypatch.setenv("XDG_STATE_HOME", place)
    remember("media", peaks(MIB))
    assert 0 == recall("media").runs


@pytest.mark.parametrize("home", ["", "relative/path"])
def test_without_a_state_directory_it_is_the_one_in_the_home_directory(monkeypatch, tmp_path, home):
    monkeypatch.setenv("XDG_STATE_HOME", home)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"{tmp_path}/.local/state/procjobs/media.json" == path_of("media")


@pytest.mark.parametrize("home", ["/nonexistent", None, "", "~", "relative/path"])
def test_without_a_home_nothing_is_remembered_and_nothing_made(monkeypatch, tmp_path, home):
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown_user)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    monkeypatch.chdir(tmp_path)
    remember("media", peaks(MIB))
    assert 0 == recall("media").runs
    assert path_of("media") is None
    assert [] == os.listdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"HOME is .*Set XDG_STATE_HOME to a directory of yours"):
        store_address.resolve(True, "media")
    assert [] == os.listdir(tmp_path)


def unknown_user(uid):
    raise KeyError(uid)


def test_store_in_a_home_that_cannot_be_written_says_so(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nothing")
    with pytest.raises(ConfigurationError, match=r"/proc/nothing/procjobs cannot be made: .*Set XDG_STATE_HOME"):
        store_address.resolve(True, "media")


def test_files_of_pools_whose_names_were_invented_do_not_pile_up(state):
    for number in range(footprints._MAX_POOLS + 5):
        remember(f"run-{number}", peaks(MIB))
        os.utime(path_of(f"run-{number}"), (number, number))
    remember("media", peaks(MIB))
    left = sorted(os.listdir(state / "procjobs"))
    assert footprints._MAX_POOLS == len(left)
    assert ("media.json" in left, "run-5.json" in left, "run-6.json" in left) == (True, False, True)


def test_files_are_for_the_user_alone(state):
    remember("media", peaks(MIB))
    assert 0o700 == (state / "procjobs").stat().st_mode & 0o777
