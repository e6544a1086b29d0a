"""procjobs.ffmpeg with a real ffmpeg: its progress, its end with the job's, and what it says when it fails."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

import procjobs
from tests.process import ffmpeg_jobs
from tests.process.ffmpeg_jobs import ENDLESS, left_over

from ..conftest import wait_until

pytest.importorskip("imageio_ffmpeg")
import procjobs.ffmpeg

NAMES = ["plain.mp4", "-y.mp4", "a b.mp4", "größe 夜.mp4", "http:x.mp4", "it's 100%; $(x).mp4"]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A film of two seconds, with sound."""
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    inputs = ["-f", "lavfi", "-i", "testsrc2=size=64x36:rate=20", "-f", "lavfi", "-i", "sine"]
    procjobs.ffmpeg.run([*inputs, "-t", "2", "-preset", "ultrafast", path])
    return path


@pytest.fixture
def pool_settings():
    return {"workers": 1, "preload": ["tests.process.ffmpeg_jobs"]}


@pytest.fixture
def program(tmp_path):
    """Make a program that stands for ffmpeg."""

    def make(script):
        path = tmp_path / "ffmpeg"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return make


def test_progress_of_a_job_is_that_of_the_output(pool, film, tmp_path):
    job = pool.submit(ffmpeg_jobs.encode, ["-re", "-i", film, "-t", "1.5", tmp_path / "out.mp4"], message="making it")
    wait_until(lambda: (seen := pool.status(job.id).progress) and 0 < seen.value < 1.5 and seen.total == 1.5)
    done = job.result(30)
    last = pool.status(job.id).progress
    assert (1.5, 1.5, "making it") == (last.value, last.total, last.message)
    assert (0, 1.5, 30) == (done.exit_status, done.report.seconds, done.report.frame)
    assert "Duration: 00:00:02.00" in pool.logs(job.id)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files_are_names_and_nothing_else(film, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    reports = []
    procjobs.ffmpeg.run(["-i", film, "-c", "copy", Path(name)], progress=reports.append)
    info = procjobs.ffmpeg.probe(Path(name), count_frames=True)
    assert (2.0, 64, 36, 20.0, 40, "h264", "aac") == info[1:]
    assert (2.0, 2.0) == reports[-1][:2]
    assert [name] == os.listdir()


@pytest.mark.parametrize("end", ["cancel", "timeout", "soft_timeout", "stop", "thread"])
def test_ffmpeg_finishes_its_file_and_is_gone_when_the_job_is_interrupted(pool, tmp_path, end):
    told, target = tmp_path / "told", tmp_path / "out.mp4"
    options = pool.options(**{end: 2.0} if "timeout" in end else {})
    job = options.submit(ffmpeg_jobs.encode_in_a_thread if end == "thread" else ffmpeg_jobs.encode, [*ENDLESS, target], told)
    wait_until(lambda: (seen := pool.status(job.id).progress) and seen.value > 0)
    if end in {"cancel", "thread"}:
        assert job.cancel()
    elif end == "stop":
        pool.stop()
    with pytest.raises((procjobs.JobCancelled, procjobs.JobTimeout, procjobs.PoolClosed)):
        job.result(30)
    wait_until(told.exists)
    wait_until(told.read_text)
    ended = json.loads(told.read_text())
    assert ("JobTimeout" if "timeout" in end else "JobCancelled") == ended["error"]
    assert ended["before"] == ended["after"]
    info = procjobs.ffmpeg.probe(target)
    assert ("h264", True) == (info.video_codec, info.duration > 0)
    if end != "stop":
        assert 0 == pool.stats().restarts


def test_program_that_ignores_sigterm_is_killed_though_a_child_of_it_holds_its_pipes(program):
    path = program("trap '' TERM; sleep 60 & echo $! >&2; while :; do sleep 0.1; done")
    children = []

    def tell(line):
        children.append(int(line))
        raise KeyboardInterrupt

    before = left_over()
    running = procjobs.ffmpeg.program.Program(str(path), [], grace_period=0.2)
    with pytest.raises(KeyboardInterrupt):
        running.run_to_end(tell, lambda _: None)
    assert before == left_over()
    with contextlib.suppress(ProcessLookupError):
        os.kill(children[0], signal.SIGKILL)


def test_program_that_has_ended_is_not_waited_for_because_of_its_child(program):
    path = program("sleep 60 & echo $! >&2; exit 3")
    done = procjobs.ffmpeg.run([], executable=path, check=False)
    assert 3 == done.exit_status
    os.kill(int(done.last_lines), signal.SIGKILL)


def test_nothing_is_left_whenever_an_exception_comes(film):
    """Every 0.3 ms from before the start of ffmpeg to after its end, a handler of a signal raises."""

    class Interrupted(Exception):
        pass

    def interrupt(*_):
        raise Interrupted

    before = left_over()
    previous = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    try:
        for n in range(1, 100):
            try:
                signal.setitimer(signal.ITIMER_REAL, n * 0.0003)
                procjobs.ffmpeg.run(["-v", "error", "-i", film, "-c", "copy", "-f", "null", "-"], progress=False)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                interrupted += 1
            assert before == left_over()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert interrupted > 10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.mp4", None, "there is no file {path}"),
        ("empty.mp4", b"", "the file {path} is empty"),
        ("broken.mp4", b"no film at all" * 100, "Invalid data found when processing input"),
    ],
)
def test_error_says_what_is_wrong_with_an_input(pool, tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    job = pool.submit(ffmpeg_jobs.encode, ["-i", path, tmp_path / "out.mp4"])
    with pytest.raises(procjobs.ffmpeg.FfmpegError) as caught:
        job.result(30)
    assert message.format(path=path) in str(caught.value).splitlines()[0]
    assert caught.value.exit_status > 0
    assert "Error opening input files" in caught.value.last_lines
    assert f"-i {path}" in caught.value.command
    with pytest.raises(procjobs.ffmpeg.FfmpegError, match=r"no file|empty|Invalid data"):
        procjobs.ffmpeg.probe(path)


def test_error_says_that_the_folder_of_the_output_is_missing(film, tmp_path):
    with pytest.raises(procjobs.ffmpeg.FfmpegError, match=f"there is no folder {tmp_path}/no to write"):
        procjobs.ffmpeg.run(["-i", film, tmp_path / "no" / "out.mp4"])


def test_existing_output_is_not_replaced_unasked(film, tmp_path):
    (tmp_path / "out.mp4").write_text("precious")
    with pytest.raises(procjobs.ffmpeg.FfmpegError, match="the output exists; -y replaces it"):
        procjobs.ffmpeg.run(["-i", film, tmp_path / "out.mp4"])
    assert "precious" == (tmp_path / "out.mp4").read_text()


def test_error_and_log_have_no_passwords(capfd):
    address = "http://me:secret@127.0.0.1:1/x?token=secret"
    with pytest.raises(procjobs.ffmpeg.FfmpegError, match=r"http://\*\*\*@127.0.0.1:1/x\?token=\*\*\*") as caught:
        procjobs.ffmpeg.run(["-i", address, "-f", "null", "-"])
    log = capfd.readouterr().err
    assert "Connection refused" in log
    assert "secret" not in f"{caught.value}{caught.value.last_lines}{caught.value.command}{log}"


def test_huge_output_on_standard_error_is_cut(program, capfd):
    path = program("i=0; while [ $i -lt 50000 ]; do echo line $i >&2; i=$((i+1)); done; exit 7")
    with pytest.raises(procjobs.ffmpeg.FfmpegError, match="status 7: line 49999") as caught:
        procjobs.ffmpeg.run([], executable=path)
    lines = capfd.readouterr().err.splitlines()
    assert (401, "... 49600 more lines of ffmpeg are left out") == (len(lines), lines[-1])
    assert 20 == len(caught.value.last_lines.splitlines())


@pytest.mark.parametrize("text", [b"\\377\\000\\033[31m\\r", b"x" * 100_000])
def test_odd_output_on_standard_error_does_no_harm(program, text, capfd):
    path = program(f"printf '{text.decode()}' >&2; kill -SEGV $$")
    with pytest.raises(procjobs.ffmpeg.FfmpegError, match="was killed by SIGSEGV"):
        procjobs.ffmpeg.run([], executable=path)
    assert len(capfd.readouterr().err) < 5000


def test_failure_is_returned_where_it_is_not_checked(tmp_path):
    done = procjobs.ffmpeg.run(["-i", tmp_path / "missing.mp4"], check=False)
    assert (True, None) == (done.exit_status > 0, done.report)


def test_exception_of_the_function_that_hears_of_progress_stops_ffmpeg(tmp_path):
    def tell(_report):
        raise LookupError("enough")

    before = left_over()
    with pytest.raises(LookupError, match="enough"):
        procjobs.ffmpeg.run([*ENDLESS, tmp_path / "out.mp4"], progress=tell)
    assert before == left_over()


def test_films_go_through_open_files_and_folders(film, tmp_path):
    with film.open("rb") as source, (tmp_path / "out.mkv").open("wb") as target:
        procjobs.ffmpeg.run(["-i", "pipe:0", "-c", "copy", "-f", "matroska", "pipe:1"], stdin=source, stdout=target)
    procjobs.ffmpeg.run(["-i", Path("out.mkv"), "-c", "copy", Path("out.mp4")], cwd=tmp_path)
    assert 2.0 == procjobs.ffmpeg.probe(tmp_path / "out.mp4").duration


def test_without_ffmpeg_an_error_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(procjobs.ffmpeg.FfmpegError, match="pip install imageio-ffmpeg"):
        procjobs.ffmpeg.run(["-version"])
    with pytest.raises(procjobs.ffmpeg.FfmpegError, match="no program 'ffmpeg-9'"):
        procjobs.ffmpeg.find("ffmpeg-9")


def test_program_that_cannot_be_started_is_an_error(program):
    path = program("")
    path.write_bytes(b"\x7fELF no program")
    with pytest.raises(procjobs.ffmpeg.FfmpegError, match=r"could not be started: .*Exec format error"):
        procjobs.ffmpeg.run([], executable=path)
    with pytest.raises(procjobs.ffmpeg.FfmpegError, match="could not be started: embedded null byte"):
        procjobs.ffmpeg.run(["\0"])


def test_several_threads_outside_of_a_job_encode_at_once(film, tmp_path):
    targets = [tmp_path / f"{n}.mp4" for n in range(4)]
    threads = [threading.Thread(target=procjobs.ffmpeg.run, args=(["-i", film, "-c", "copy", one],)) for one in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [2.0] * 4 == [procjobs.ffmpeg.probe(target).duration for target in targets]
    assert [] == psutil.Process().children()
