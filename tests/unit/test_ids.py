"""Job ids."""

from __future__ import annotations

import time
import types
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


@pytest.mark.parametrize(
    "text",
    [
        "", "x", None, 5, b"0" * 16, "0" * 30, "{01234567-89ab-7def-8123-456789abcdef}",
        "0123456789ab-7def-8123-456789abcdef", "urn:uuid:01234567-89ab-7def-8123-456789abcdef",
        "01234567-89ab-7def-8123-456789abcde\u0663", "x" * 10_000,
    ],
)  # fmt: skip
def test_what_is_no_id_is_an_unknown_job(text):
    with pytest.raises(UnknownJob, match="is not a job id: expected a UUID") as caught:
        ids.from_text(text)
    assert len(str(caught.value)) < 300


def test_id_is_taken_in_every_form_that_names_it():
    raw = ids.new_id()
    text = ids.to_text(raw)
    handle = types.SimpleNamespace(raw_id=raw)
    for form in (text, text.upper(), text.replace("-", ""), text.replace("-", "").upper(), uuid.UUID(text), handle):
        assert (raw, text) == ids.parse(form)


def test_time_of_an_id_is_that_of_its_making():
    before = time.time()
    made = ids.made_at(ids.new_id())
    assert before - 0.001 <= made <= time.time()
    assert None is ids.made_at(uuid.uuid4().bytes)


def test_ids_are_made_though_other_threads_take_all_the_random_numbers(monkeypatch):
    class Emptied(list):
        def extend(self, _numbers):
            pass

    monkeypatch.setattr(ids, "_random", Emptied())
    assert 3 == len({ids.new_id() for _ in range(3)})
