"""The schedule of a job beside the table, in the file for a successor, and in arguments."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime

import pytest

import procjobs
from procjobs.shared import scheduled
from procjobs.shared.ids import new_id
from procjobs.shared.meta import MAX_META_BYTES
from procjobs.shared.table.annex import NO_EXTRAS, AnnexReader, AnnexWriter, Extras, extras_of
from procjobs.supervisor import waiting_file
from procjobs.supervisor.waiting_file import WaitingGeneration, WaitingJob, WaitingKind

LONGEST = "\N{OWL}" * scheduled.MAX_NAME_CHARACTERS
NOON = 1_900_000_000_000_001


def test_slot_has_room_for_the_longest_name_beside_the_longest_meta(tmp_path):
    writer, reader = AnnexWriter(str(tmp_path)), AnnexReader(str(tmp_path))
    meta = b"x" * MAX_META_BYTES
    full = Extras(meta, b"r" * 16, (7, 8), LONGEST.encode(), scheduled.MAX_MOMENT)
    others = {1: full, 2: Extras(meta), 3: full._replace(meta=b""), 4: Extras(schedule=b"n", scheduled_for=1)}
    ids = {row: new_id() for row in others}
    for row, extras in others.items():
        writer.write(row, ids[row], extras)
    assert others == {row: reader.read(row, ids[row]) for row in others}
    assert reader.read(1, new_id()) is None
    reader.close()
    writer.close()


def test_extras_are_none_where_there_is_nothing():
    assert extras_of(b"", b"") is NO_EXTRAS
    assert extras_of(b"", bytes(16), b"", 0) is NO_EXTRAS
    assert not extras_of(b"", b"", b"nightly", 1).is_retry
    assert (b"nightly", 1) == extras_of(b"", b"", b"nightly", 1)[3:5]


@pytest.mark.parametrize("name", ["", "x" * 101, 7, b"bytes", None])
@pytest.mark.parametrize("moment", [NOON, -1, True, 1.5, "1", scheduled.MAX_MOMENT + 1])
def test_what_is_no_schedule_is_refused(name, moment):
    with pytest.raises(ValueError, match="of a schedule"):
        scheduled.pack_origin(name, moment)


def test_name_without_a_moment_is_refused_and_nothing_is_no_schedule():
    with pytest.raises(ValueError, match="no moment"):
        scheduled.pack_origin("nightly", None)
    assert (b"", 0) == scheduled.pack_origin(None, None) == scheduled.pack_origin("", 0)
    assert (b"nightly", NOON) == scheduled.pack_origin("nightly", NOON)


def test_moment_is_the_same_time_to_the_microsecond():
    assert datetime(2030, 3, 17, 17, 46, 40, 1, tzinfo=UTC) == scheduled.datetime_of(NOON)
    assert datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) == scheduled.datetime_of(scheduled.MAX_MOMENT)
    assert (None, None, None) == (scheduled.datetime_of(0), scheduled.seconds_of(0), scheduled.seconds_of(None))
    assert 1_900_000_000.000001 == scheduled.seconds_of(NOON)


def waiting(**extras):
    return WaitingJob(new_id(), 0, 0, 0, 0, 0, 1.0, 0.0, 0.0, None, None, b"", b"call", None, **extras)


def left_and_read(path, *jobs):
    waiting_file.write(path, [WaitingGeneration("key", "python", b"{}"), WaitingKind(b"{}", b"", b""), *jobs])
    return list(waiting_file.read(path))[2:]


def test_successor_reads_the_schedule_of_a_job_that_waits(tmp_path):
    jobs = [waiting(schedule=LONGEST, scheduled_for=str(NOON)), waiting()]
    assert jobs == left_and_read(f"{tmp_path}/waiting", *jobs)


@pytest.mark.parametrize(
    "extras", [{"schedule": "n"}, {"scheduled_for": "5"}, {"schedule": "n", "scheduled_for": "x"}, {"schedule": "n" * 101}]
)
def test_file_with_nonsense_about_a_schedule_makes_no_sense(tmp_path, extras):
    with pytest.raises(ValueError, match=r"schedule|invalid literal"):
        left_and_read(f"{tmp_path}/waiting", waiting(**extras))


def test_placeholder_is_one_object_however_it_is_copied():
    one = procjobs.SCHEDULED_FOR
    assert one is copy.copy(one) is copy.deepcopy([one])[0] is pickle.loads(pickle.dumps(one))
    assert "procjobs.SCHEDULED_FOR" == repr(one)
