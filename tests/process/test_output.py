"""What jobs print: kept by job, in the pool's log, and passed on by a private pool; nobody waits for whoever prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

import procjobs
from procjobs.host import rundir
from tests.process import jobs, limited_jobs

from ..conftest import wait_until

TAIL_BYTES = 16 * 1024


def log_of(pool):
    """Return what is in the log of a pool, that before the last rotation first."""
    path = rundir.RunDir(rundir.find_base(), pool.name).log if pool.name else pool._link.directory.log
    parts = []
    for name in (path + ".1", path):
        if os.path.exists(name):
            with open(name, "rb") as file:
                parts.append(file.read().decode(errors="replace"))
    return "".join(parts)


@pytest.fixture
def named(pool_name, monkeypatch):
    """A named pool: what its jobs print goes nowhere but into the log."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # buffers are among what is tested
    with procjobs.Pool(pool_name, workers=2, preload=["tests.process.limited_jobs"]) as pool:
        yield pool
        pool.stop()


def test_all_that_a_job_and_its_children_print_is_there_while_it_runs_and_after(named, tmp_path):
    job = named.submit(limited_jobs.speak_in_every_way, str(tmp_path / "go"))
    wait_until(lambda: "written to 1" in named.logs(job.id), dump=lambda: named.logs(job.id))
    expected = {
        "printed",
        "printed to stderr",
        "INFO ours: logged at info",
        "from a child",
        "its stderr",
        "written to 1",
    }
    assert expected == set(named.logs(job.id).splitlines())
    (tmp_path / "go").touch()
    job.result(30)
    assert expected == set(named.logs(job.id).splitlines())
    label = f"[{job.id} tests.process.limited_jobs.speak_in_every_way] "
    lines = [line.partition(label)[2] for line in log_of(named).splitlines() if label in line]
    assert sorted(expected) == sorted(lines)


def test_job_that_prints_nothing_has_an_empty_log_and_an_unknown_one_none(named):
    job = named.submit(jobs.add, 1)
    job.result(30)
    assert "" == named.logs(job.id)
    with pytest.raises(procjobs.UnknownJob):
        named.logs("01a1fc86-8f61-7306-aae2-dd2293de919f")


def test_output_of_two_jobs_at_once_is_not_mixed(named):
    handles = [named.submit(limited_jobs.count_aloud, label, 300, 0.0005) for label in "ab"]
    for job in handles:
        job.result(30)
    for job, label in zip(handles, "ab", strict=True):
        expected = [f"{label} {n}" for n in range(300)]
        assert expected == named.logs(job.id).splitlines()
        assert expected == [line.partition("] ")[2] for line in log_of(named).splitlines() if f"[{job.id} " in line]


def test_thousands_of_tiny_jobs_have_exactly_their_own_output(named):
    handles = [named.submit(limited_jobs.tiny, n) for n in range(3000)]
    for job in handles:
        job.result(60)
    assert [f"<{n}>\n" for n in range(3000)] == [named.logs(job.id) for job in handles]


def test_output_without_an_end_of_line_is_kept_and_logged(named):
    first = named.submit(limited_jobs.speak, "no end", end="")
    first.result(30)
    second = named.submit(limited_jobs.speak, "next")
    second.result(30)
    assert ("no end", "next\n") == (named.logs(first.id), named.logs(second.id))
    named.resize(1)  # a worker that ends, ends its line
    wait_until(lambda: f"[{first.id} tests.process.limited_jobs.speak] no end\n" in log_of(named) or _next(named))


def _next(pool):
    pool.submit(limited_jobs.speak, "next").result(30)


def test_garbage_is_replaced_and_harms_nobody(named):
    job = named.submit(limited_jobs.write_garbage)
    job.result(30)
    text = named.logs(job.id)
    assert (True, True, True) == ("\ufffd" in text, "ABCDEF" in text, "no text" in text)
    assert 3 == named.submit(jobs.add, 1, 2).result(30)


def test_tail_is_bounded_and_begins_with_a_whole_line(named):
    job = named.submit(limited_jobs.count_aloud, "line", 10_000)
    job.result(30)
    lines = named.logs(job.id).splitlines()
    assert (True, "line 9999") == (TAIL_BYTES / 2 < len(named.logs(job.id)) <= TAIL_BYTES, lines[-1])
    assert [f"line {n}" for n in range(10_000 - len(lines), 10_000)] == lines


def test_what_is_printed_last_is_there_when_the_result_is(named):
    for n in range(200):
        job = named.submit(limited_jobs.speak, f"end {n}", end="")
        job.result(30)
        assert f"end {n}" == named.logs(job.id)


def test_crashing_worker_leaves_the_end_of_its_standard_error(named):
    job = named.submit(limited_jobs.complain_and_crash, "first line\n" + "x" * 6000 + "\nlast words")
    with pytest.raises(procjobs.WorkerCrashed) as caught:
        job.result(30)
    assert (True, "last words") == (len(caught.value.stderr) <= 4096, caught.value.stderr.splitlines()[-1])
    assert named.logs(job.id).endswith("last words")

    job = named.submit(jobs.segfault)
    with pytest.raises(procjobs.WorkerCrashed) as caught:
        job.result(30)
    assert ("Fatal Python error: Segmentation fault", True) == (
        caught.value.stderr.splitlines()[0],
        "in segfault" in caught.value.stderr,
    )


def test_last_words_of_a_worker_that_crashes_in_a_flood_are_heard(named):
    for _ in range(5):
        job = named.submit(limited_jobs.flood_and_crash, b"x\n" * 40_000 + b"last words")
        with pytest.raises(procjobs.WorkerCrashed) as caught:
            job.result(30)
        assert caught.value.stderr.endswith("x\nlast words")


def test_c_code_that_prints_by_stdio_is_heard(named):
    job = named.submit(limited_jobs.printf_in_c, "from C")
    job.result(30)
    assert "from C\n" == named.logs(job.id)


def test_log_records_know_their_job_and_a_preload_that_has_set_up_logging_is_left_alone(pool_name, tmp_path, monkeypatch):
    (tmp_path / "preload_with_logging.py").write_text(
        "import logging\nlogging.basicConfig(level=logging.DEBUG, format='%(levelname)s <%(job_id)s> %(message)s')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with procjobs.Pool(pool_name, workers=1, preload=["preload_with_logging"]) as pool:
        job = pool.submit(limited_jobs.speak_in_every_way)
        job.result(30)
        logged = [line for line in pool.logs(job.id).splitlines() if "logged" in line]
        assert [f"INFO <{job.id}> logged at info", f"DEBUG <{job.id}> logged at debug"] == logged
        record = pool.submit(limited_jobs.job_id_of_a_record)
        assert record.id == record.result(30)
        pool.stop()


# Floods -----------------------------------------------------------------------------------------------------


def test_flood_does_not_hold_up_other_jobs_and_is_bounded_in_memory_and_in_the_log(named, tmp_path):
    named.submit(jobs.add, 1).result(30)
    supervisor = psutil.Process(named.stats().supervisor_pid)
    before = supervisor.memory_info().rss
    flood = named.submit(limited_jobs.run_yes, str(tmp_path / "runs"), 2.0)
    wait_until((tmp_path / "runs").exists)
    directory = rundir.RunDir(rundir.find_base(), named.name)
    waits, largest = [], 0
    while not flood.done():
        started = time.perf_counter()
        assert 3 == named.submit(jobs.add, 1, 2).result(30)
        waits.append(time.perf_counter() - started)
        for path in (directory.log, directory.log + ".1"):
            if os.path.exists(path):
                largest = max(largest, os.path.getsize(path))
    waits.sort()
    assert waits[len(waits) // 2] < 0.1, f"median {waits[len(waits) // 2] * 1000:.1f} ms of {len(waits)}"
    assert 1_000_000 < largest < 1_500_000
    assert supervisor.memory_info().rss - before < 8 * 2**20
    assert {"y"} == set(named.logs(flood.id).split())


def test_print_of_many_megabytes_ends_with_its_end(named):
    supervisor = psutil.Process(named.stats().supervisor_pid)
    before = supervisor.memory_info().rss
    job = named.submit(limited_jobs.print_much, 30)
    job.result(60)
    assert named.logs(job.id).endswith("x\nthe end\n")
    assert supervisor.memory_info().rss - before < 8 * 2**20


# The owner's own output ---------------------------------------------------------------------------------------

SCRIPT = """
import os, sys, time
import procjobs
from tests.process import jobs, limited_jobs

def report(text):
    os.write(REPORT, (text + "\\n").encode())

REPORT = int(sys.argv[1])
if __name__ == "__main__":
    pool = procjobs.Pool(workers=2)
    %s
    started = time.monotonic()
    pool.stop()
    report(f"stopped {time.monotonic() - started}")
"""
TALK = """for n in range(20):
        pool.submit(limited_jobs.speak, f"line {n}").result(30)
    pool.submit(limited_jobs.print_much, 2).result(60)
    pool.submit(limited_jobs.speak_in_every_way).result(30)
    report("talked")
    time.sleep(0.2)  # job"""
SHOUT = """shouting = [pool.submit(limited_jobs.print_much, 1)]
    assert [n for n in range(100)] == [pool.submit(jobs.add, n).result(30) for n in range(100)]
    report("others went on")"""
MANY = """for job in [pool.submit(limited_jobs.speak, "x" * 60000) for _ in range(1200)]:
        job.result(60)
    report("all done")
    with open(f"/proc/{pool.stats().supervisor_pid}/statm") as file:
        report(f"rss {int(file.read().split()[1]) * 4096}")"""


def start_script(body, **streams):
    """Start a script that owns a private pool; return it and where to read what it reports."""
    read, write = os.pipe()
    environment = {**os.environ, "PYTHONPATH": find_root()}
    child = subprocess.Popen([sys.executable, "-c", SCRIPT % body, str(write)], pass_fds=[write], env=environment, **streams)
    os.close(write)
    return child, read


def find_root():
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def end_script(child, reports):
    with open(reports) as file:
        text = file.read()
    assert 0 == child.wait(30)
    last = text.splitlines()[-1].split()
    assert "stopped" == last[0]
    assert float(last[1]) < 10.0
    return text


def check_talk(out, err):
    assert [f"line {n}" for n in range(20)] == out.splitlines()[:20]
    assert 2 * (2**20 // 80) == out.count("x" * 79 + "\n")
    assert ["the end", "printed", "from a child", "written to 1"] == out.splitlines()[-4:]
    assert ["printed to stderr", "INFO ours: logged at info", "its stderr"] == err.splitlines()


def test_output_reaches_an_owner_whose_stdout_is_a_pipe():
    child, reports = start_script(TALK, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = child.communicate(timeout=60)
    end_script(child, reports)
    check_talk(out, err)


def test_output_reaches_an_owner_whose_stdout_is_a_file(tmp_path):
    with open(tmp_path / "out", "w") as out, open(tmp_path / "err", "w") as err:
        child, reports = start_script(TALK, stdout=out, stderr=err)
        end_script(child, reports)
    check_talk((tmp_path / "out").read_text(), (tmp_path / "err").read_text())


def test_output_reaches_an_owner_whose_pipe_does_not_block():
    read, write = os.pipe()
    os.set_blocking(write, False)
    child, reports = start_script(TALK, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    with open(read) as file:
        out = file.read()
    err = child.communicate(timeout=60)[1]
    end_script(child, reports)
    check_talk(out, err)


def test_full_device_and_closed_descriptors_of_the_owner_do_no_harm(tmp_path):
    with open("/dev/full", "w") as full:
        child, reports = start_script(TALK, stdout=full, stderr=full)
        assert "talked" in end_script(child, reports)
    command = '"$0" -c "$1" "$2" <&- >&- 2>&-'
    read, write = os.pipe()
    child = subprocess.Popen(
        ["sh", "-c", command, sys.executable, SCRIPT % TALK, str(write)],
        pass_fds=[write],
        env={**os.environ, "PYTHONPATH": find_root()},
    )
    os.close(write)
    assert "talked" in end_script(child, read)


def test_reader_that_has_gone_does_no_harm():
    read, write = os.pipe()
    os.close(read)
    child, reports = start_script(TALK, stdout=write, stderr=write)
    os.close(write)
    assert "talked" in end_script(child, reports)


def test_pipe_that_nobody_reads_holds_up_neither_others_nor_stop():
    read, write = os.pipe()
    child, reports = start_script(SHOUT, stdout=write, stderr=write)
    os.close(write)
    assert "others went on" in end_script(child, reports)
    os.close(read)


def test_pipe_that_nobody_reads_costs_bounded_memory():
    read, write = os.pipe()
    child, reports = start_script(MANY, stdout=write)
    os.close(write)
    text = end_script(child, reports)
    os.close(read)
    assert int(text.split("rss ")[1].split()[0]) < 160 * 2**20


def test_preload_that_prints_is_heard_once(tmp_path):
    (tmp_path / "preload_that_prints.py").write_text("print('preloaded')\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    script = """if True:
        import procjobs
        from tests.process import jobs, limited_jobs
        with procjobs.Pool(workers=3, preload=["preload_that_prints"]) as pool:
            while pool.stats().idle < 3:
                pass
            pool.submit(limited_jobs.speak, "spoken").result(30)
    """
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "PYTHONPATH": f"{find_root()}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "preloaded\nspoken\n" == done.stdout


def test_sigkill_of_a_printing_job_keeps_what_it_had_printed(named):
    job = named.submit(limited_jobs.speak, "before", "/nonexistent/file")
    wait_until(lambda: named.logs(job.id))
    (pid,) = [worker.pid for worker in named.workers() if worker.job_id == job.id]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(procjobs.WorkerCrashed):
        job.result(30)
    assert "before\n" == named.logs(job.id)
