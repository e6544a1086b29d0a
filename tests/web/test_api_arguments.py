"""Arguments of jobs are shown only where the site says so, as it says, and are never unpickled by the web process."""

from __future__ import annotations

import pytest

pytest.importorskip("jsonschema")
from . import api_jobs
from .api_site import Api


class Trap:
    """An argument that notes where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return _spring, (self.path,)

    def __repr__(self):
        return "Trap(secret=7)"


def _spring(path):
    import os

    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    return Trap(path)


@pytest.fixture
def pool_settings():
    return {"record_arguments": True}


@pytest.fixture
def job(pool, tmp_path):
    job = pool.submit(api_jobs.take, Trap(tmp_path / "unpickled"), text="\x1b[31m<b>")
    assert "taken" == job.result(30)
    return job


def mask(job_id, text):
    assert len(job_id) == 36
    return text.replace("secret=7", "***")


@pytest.mark.parametrize(
    ("shows", "expected"),
    [(False, None), (True, "Trap(secret=7), text="), (mask, "Trap(***), text=")],
    ids=["hidden", "shown", "masked"],
)
def test_arguments_are_shown_as_the_site_says(pool, job, tmp_path, shows, expected):
    shown = Api(pool, show_arguments=shows).get(f"jobs/{job.id}")["arguments"]
    if expected is None:
        assert shown is None
    else:
        assert shown.startswith(expected)
        assert "\x1b" not in shown
    [worker] = (tmp_path / "unpickled").read_text().split()
    assert int(worker) == job.status().worker_pid  # and no other process


def test_error_of_the_function_that_masks_shows_nothing(pool, job):
    def broken(job_id, text):
        raise KeyError(text)

    answer = Api(pool, show_arguments=broken).ask("GET", f"jobs/{job.id}")
    assert 500 == answer.status
    assert b"secret" not in answer.body


def test_data_of_progress_is_not_shown_nor_unpickled(pool, tmp_path):
    job = pool.submit(api_jobs.report, tmp_path / "unpickled")
    assert "reported" == job.result(30)
    assert b"secret" not in Api(pool, show_arguments=True).ask("GET", f"jobs/{job.id}").body
    assert not (tmp_path / "unpickled").exists()
    assert "data" not in Api(pool).get("jobs")["jobs"][0]["progress"]
    assert not (tmp_path / "unpickled").exists()
