"""The shared table between real processes: no torn value, no lost row."""

from __future__ import annotations

import os
import signal
import time

import pytest

import procjobs
from procjobs.clock import boottime
from procjobs.host import payload
from procjobs.shared import ids
from procjobs.shared.states import JobState
from procjobs.shared.table.layout import Counters
from procjobs.shared.table.progress_writer import ProgressWriter
from procjobs.shared.table.reader import ProgressTable
from procjobs.shared.table.state_writer import TableFull, TableWriter
from tests.process import jobs

from ..conftest import wait_until


def make(tmp_path, rows=100):
    writer = TableWriter(str(tmp_path / "table"), rows=rows, started_at=1.0)
    return writer, ProgressTable(str(tmp_path / "table"), loads=payload.loads)


def add(writer, name=b"job"):
    job_id = ids.new_id()
    row = writer.allocate(job_id)
    writer.publish(row, job_id, JobState.QUEUED, 0, 5.0, name)
    return job_id, row


def shown(reader, job_id):
    status = reader.status(job_id)
    return status.state, status.reason, status.attempt, status.worker_pid, status.error


def test_rows_are_found_among_many_and_gone_when_released(tmp_path):
    writer, reader = make(tmp_path, rows=5000)
    added = dict(add(writer) for _ in range(5000))
    released = {job_id for n, job_id in enumerate(added) if n % 3 == 0}
    for job_id in released:
        writer.release(added[job_id])
    again = dict(add(writer) for _ in range(len(released)))
    writer.write_counters(Counters(rows_used=writer.rows_used))
    found = {ids.from_text(status.id) for status in reader.jobs()}
    assert (added.keys() - released) | again.keys() == found
    with pytest.raises(TableFull, match="5000 rows"):
        writer.allocate(ids.new_id())
    reader.close()
    writer.close()


def test_state_of_a_job_is_running_once_a_worker_has_begun_it(tmp_path):
    writer, reader = make(tmp_path)
    job_id, row = add(writer)
    worker = ProgressWriter(writer.fd, writer.rows_offset, str(tmp_path))
    assert "queued" == reader.status(job_id).state
    worker.begin(row, job_id, 1)
    assert ("running", None, 1, os.getpid(), None) == shown(reader, job_id)
    writer.write_state(row, JobState.RETRYING, 1, 1, 0.0, "no")
    assert ("retrying", "raised", 1, os.getpid(), "no") == shown(reader, job_id)
    worker.begin(row, job_id, 2)
    assert ("running", None, 2, os.getpid(), None) == shown(reader, job_id)
    reader.close()
    writer.close()


def test_what_an_earlier_occupant_reported_is_not_taken_for_the_new_ones(tmp_path):
    writer, reader = make(tmp_path, rows=1)
    job_id, row = add(writer)
    worker = ProgressWriter(writer.fd, writer.rows_offset, str(tmp_path))
    worker.begin(row, job_id, 1)
    worker.report(1.0, 2.0)
    assert 1.0 == reader.progress(job_id).value
    writer.release(row)
    other, _ = add(writer)
    assert (None, "queued") == (reader.progress(other), reader.status(other).state)
    reader.close()
    writer.close()


def test_pace_of_the_reports_is_in_the_row(tmp_path):
    writer, reader = make(tmp_path)
    job_id, row = add(writer)
    worker = ProgressWriter(writer.fd, writer.rows_offset, str(tmp_path))
    worker.begin(row, job_id, 1)
    begun = time.time()
    for value in (40, 41, 45):
        worker.report(value, 100)
    progress = reader.progress(job_id)
    assert (45, 40.0, True) == (progress.value, progress.pace.first_value, progress.is_running)
    assert begun - 1 <= progress.pace.first_at <= progress.updated_at
    worker.report_more(1, 10, "the next phase", None)  # it begins anew
    assert 1.0 == reader.progress(job_id).pace.first_value
    worker.begin(row, job_id, 2)
    worker.report(3e300, 1e301)
    assert (3e300, 0.3) == (reader.progress(job_id).value, pytest.approx(reader.progress(job_id).fraction))
    reader.close()
    writer.close()


def test_fraction_is_read_by_id_and_a_job_that_has_ended_has_no_time_left(pool, tmp_path):
    go = tmp_path / "go"
    job = pool.submit(jobs.report_and_wait, str(go), 0.5, None)
    progress = wait_until(job.progress)
    assert (0.5, 1.0, True) == (progress.fraction, progress.total, progress.is_running)
    job.cancel()
    wait_until(lambda: pool.status(job.id).done)
    assert (0.5, None, False) == (job.progress().fraction, job.progress().eta(), job.progress().is_running)


def test_job_that_reports_what_is_no_number_fails_with_what_to_write(pool):
    with pytest.raises(TypeError, match="'50%' is no number; write"):
        pool.submit(procjobs.progress, "50%").result(30)
    with pytest.raises(ValueError, match="a total is 0 or more"):
        pool.submit(procjobs.progress, 1, -1).result(30)


def test_no_reader_ever_sees_a_torn_row(tmp_path):
    """A process writes rows whose values depend on each other, as fast as it can; readers check them."""
    writer, reader = make(tmp_path)
    job_id, row = add(writer)
    child = os.fork()
    if child == 0:
        worker = ProgressWriter(writer.fd, writer.rows_offset, str(tmp_path))
        worker.begin(row, job_id, 1)
        n = 0
        while True:
            n += 1
            worker.report_more(float(n), float(n * 2), f"message {n} " + "x" * (n % 50), None)
            if n % 3 == 0:
                writer.write_state(row, JobState.QUEUED, 0, 0, 0.0, f"error {n}" * (n % 9))
    try:
        wait_until(lambda: reader.progress(job_id))
        seen, end = set(), time.monotonic() + 2.0
        while time.monotonic() < end or len(seen) <= 100:
            status = reader.status(job_id)
            report = status.progress
            if report is None:
                continue
            number = int(report.value)
            assert (report.value * 2, f"message {number} " + "x" * (number % 50)) == (report.total, report.message)
            seen.add(number)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        reader.close()
        writer.close()


def test_two_thousand_rows_at_a_time_get_memory(tmp_path):
    writer, reader = make(tmp_path, rows=10_000)
    before = os.stat(tmp_path / "table").st_blocks
    for _ in range(2049):
        add(writer)
    assert os.stat(tmp_path / "table").st_blocks - before >= 2048
    reader.close()
    writer.close()


def test_part_torn_by_the_death_of_its_writer_counts_as_begun(tmp_path):
    writer, reader = make(tmp_path)
    job_id, row = add(writer)
    assert not writer.has_begun(row, job_id, 1)
    worker = ProgressWriter(writer.fd, writer.rows_offset, str(tmp_path))
    worker.begin(row, job_id, 1)
    assert (True, False) == (writer.has_begun(row, job_id, 1), writer.has_begun(row, job_id, 2))
    with open(tmp_path / "table", "r+b") as file:
        file.seek(writer._row_offset(row) + 280 + 100)
        file.write(b"torn")
    assert (True, None) == (writer.has_begun(row, job_id, 1), reader.progress(job_id))
    reader.close()
    writer.close()


def test_data_that_cannot_be_unpickled_here_does_not_hide_the_rest(pool, tmp_path):
    go = tmp_path / "go"
    job = pool.submit(lambda path: jobs.report_and_wait(path, 1, 2, "half", jobs.UnpicklesNowhere()), str(go))
    progress = wait_until(job.progress)
    assert (1, 2, "half") == progress[:3]
    assert isinstance(progress.data, procjobs.PayloadError)
    assert [job.id] == [status.id for status in pool.jobs("running")]
    go.touch()
    job.result(30)


def test_job_whose_long_report_finds_no_room_does_not_fail(pool, tmp_path):
    job = pool.submit(jobs.report_without_room, str(tmp_path / "go"), "m" * 5000, b"d" * 5000)
    job.wait_accepted(60)
    wait_until(lambda: pool.progress(job.id) is not None and pool.progress(job.id).value == 3)
    report = pool.progress(job.id)
    assert (3, 9, "m" * 20, None) == (report.value, report.total, report.message[:20], report.data)
    (tmp_path / "go").touch()
    assert [] == job.result()


def test_long_report_that_finds_room_again_is_read_whole(pool, tmp_path):
    job = pool.submit(jobs.report_without_room, str(tmp_path / "go"), "m" * 5000, b"d" * 5000, again=True)
    job.wait_accepted(60)
    wait_until(lambda: pool.progress(job.id) is not None and pool.progress(job.id).value == 4)
    report = pool.progress(job.id)
    assert ("m" * 5000, b"d" * 5000) == (report.message, report.data)
    (tmp_path / "go").touch()
    job.result()


def test_uptime_is_by_a_clock_that_never_steps(pool):
    before = boottime()
    uptime = pool.stats().uptime
    assert before - uptime <= pool._link.table.started_at <= boottime()
    assert 0 <= uptime < before
