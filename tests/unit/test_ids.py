"""Job ids."""

from __future__ import annotations

import uuid

import pytest

from procjobs.errors import UnknownJob
from procjobs.shared import ids


def test_ids_are_version_7_uuids_and_sort_by_time():
    made = [ids.new_id() for _ in range(1000)]
    parsed = uuid.UUID(bytes=made[0])
    assert (7, uuid.RFC_4122) == (parsed.version, parsed.variant)
    stamps = [job_id[:8] for job_id in made]
    assert sorted(stamps) == stamps
    assert 1000 == len({job_id[8:] for job_id in made})


def test_text_and_back():
    job_id = ids.new_id()
    assert str(uuid.UUID(bytes=job_id)) == ids.to_text(job_id)
    assert job_id == ids.from_text(ids.to_text(job_id))


@pytest.mark.parametrize("text", ["", "x", None, 5, "01234567-89AB-7def-8123-456789abcdef", "0" * 36])
def test_what_is_no_id_is_an_unknown_job(text):
    with pytest.raises(UnknownJob):
        ids.from_text(text)


def test_ids_are_made_though_other_threads_take_all_the_random_numbers(monkeypatch):
    class Emptied(list):
        def extend(self, _numbers):
            pass

    monkeypatch.setattr(ids, "_random", Emptied())
    assert 3 == len({ids.new_id() for _ in range(3)})
