"""Named pools: one per host and user, whoever comes first; generations; settings; strangers on the socket."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys

import pytest

import procjobs
from procjobs.host import rundir
from procjobs.shared import wire
from tests.process import jobs

from ..conftest import wait_until


def run_script(text, *arguments, cwd=None):
    return subprocess.Popen(
        [sys.executable, "-c", text, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd
    )


ATTACH = """
import procjobs, sys
with procjobs.Pool(sys.argv[1], workers=2) as pool:
    print(pool.stats().supervisor_pid, pool.submit(pow, 2, 5).result(30))
"""


def test_twenty_processes_at_once_get_one_supervisor(pool_name):
    scripts = [run_script(ATTACH, pool_name) for _ in range(20)]
    outputs = [script.communicate(timeout=60) for script in scripts]
    assert [""] * 20 == [errors for _, errors in outputs]
    assert (1, "32") == (len({out for out, _ in outputs}), outputs[0][0].split()[1])


def test_job_of_one_process_is_read_by_id_in_another(pool_name, tmp_path):
    text = "import procjobs, sys; print(procjobs.Pool(sys.argv[1]).job(sys.argv[2]).result(30))"
    with procjobs.Pool(pool_name, workers=1) as pool:
        job = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), "from afar")
        job.wait_accepted(30)
        script = run_script(text, pool_name, job.id)
        (tmp_path / "go").touch()
        assert ("from afar\n", "") == script.communicate(timeout=60)


def test_jobs_of_a_client_that_has_gone_go_on(pool_name, tmp_path):
    text = (
        "import procjobs, sys, os\nfrom tests.process import jobs\n"
        "job = procjobs.Pool(sys.argv[1], workers=1).submit(jobs.wait_for_file, sys.argv[2], 'kept')\n"
        "job.wait_accepted(30); print(job.id, flush=True); os._exit(1)"
    )
    script = run_script(text, pool_name, str(tmp_path / "go"), cwd=os.getcwd())
    job_id = script.communicate(timeout=60)[0].strip()
    with procjobs.Pool(pool_name) as pool:
        assert pool.status(job_id).state in {"queued", "running"}
        (tmp_path / "go").touch()
        assert "kept" == pool.job(job_id).result(30)


def test_pool_made_before_a_fork_works_in_the_child(pool_name):
    with procjobs.Pool(pool_name, workers=1) as pool:
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(write, str(pool.submit(jobs.add, 20, 22).result(30)).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert b"42" == os.read(read, 10)
        assert 7 == pool.submit(jobs.add, 3, 4).result(30)
        os.close(read)
        os.close(write)


def test_settings_that_differ_are_told(pool_name):
    with procjobs.Pool(pool_name, workers=1, timeout=50):
        with pytest.warns(procjobs.SettingsDiffer, match=r"timeout=50.0 \(here 60.0\)"):
            procjobs.Pool(pool_name, timeout=60).connect().shutdown()
        with pytest.raises(procjobs.ConfigurationError, match=r"workers=\(1, 1\) \(here \(2, 2\)\)"):
            procjobs.Pool(pool_name, workers=2, strict=True).connect()
        with pytest.warns(procjobs.SettingsDiffer, match=r"threads='auto' \(here 3\), affinity=None \(here 'spread'\)"):
            procjobs.Pool(pool_name, threads=3, affinity="spread").connect().shutdown()
        procjobs.Pool(pool_name).connect().shutdown()


def test_pool_lingers_and_ends_by_itself(pool_name):
    pool = procjobs.Pool(pool_name, workers=1, linger=0.1)
    supervisor = pool.stats().supervisor_pid
    pool.shutdown()
    wait_until(lambda: not os.path.exists(f"/proc/{supervisor}"))


def test_files_of_a_killed_supervisor_are_taken_over(pool_name):
    first = procjobs.Pool(pool_name, workers=1)
    os.kill(first.stats().supervisor_pid, 9)
    with procjobs.Pool(pool_name, workers=1) as second:
        assert 3 == second.submit(jobs.add, 1, 2).result(30)
        assert 5 == first.submit(jobs.add, 2, 3).result(30)
        assert first.stats().supervisor_pid == second.stats().supervisor_pid
        first.shutdown()


def test_new_version_gets_new_workers_while_old_jobs_finish(pool_name, tmp_path):
    with procjobs.Pool(pool_name, workers=2, version="1") as old:
        running = old.submit(jobs.wait_for_file, str(tmp_path / "go"), "old")
        wait_until(running.running)
        with procjobs.Pool(pool_name, version="2") as new:
            assert 3 == new.submit(jobs.add, 1, 2).result(30)
            assert {1, 2} == {worker.generation for worker in new.workers()}
            assert 4 == old.submit(jobs.add, 2, 2).result(30)
            (tmp_path / "go").touch()
            assert "old" == running.result(30)


def test_files_and_sockets_are_for_the_user_alone(pool_name):
    with procjobs.Pool(pool_name, workers=1):
        directory = rundir.RunDir(rundir.find_base(), pool_name)
        modes = {path: os.stat(path).st_mode & 0o777 for path in (directory.base, directory.path)}
        assert {0o700} == set(modes.values())
        for path in (directory.socket, directory.table, directory.lock, directory.log):
            assert 0o600 == os.stat(path).st_mode & 0o777


HELLO = wire.MAGIC + wire.WIRE_VERSION.to_bytes(2, "little")


@pytest.mark.parametrize(
    "data",
    [
        os.urandom(5000),
        struct.pack("<IBBH", 0xFFFFFFFF, 1, 0, 0),
        struct.pack("<IBBH", 3, 1, 0, 0),
        wire.frame(wire.Frame.HELLO, b"prOCjobs" + b"\x01\x00{}"),
        wire.frame(wire.Frame.HELLO, HELLO + b"{}"),
        wire.frame(wire.Frame.SUBMIT, b"x" * 50),
        wire.frame(wire.Frame.HELLO, HELLO + b'{"pid": "x"}', descriptors=1),
        wire.frame(wire.Frame.HELLO, HELLO + b"[]"),
        wire.frame(wire.Frame.HELLO, b"procjobs\xff"),
        wire.frame(wire.Frame.HELLO, b"procjobs\xff\xff{"),
    ],
)
def test_nonsense_closes_that_connection_and_nobody_else_notices(pool_name, data):
    with procjobs.Pool(pool_name, workers=1) as pool:
        directory = rundir.RunDir(rundir.find_base(), pool_name)
        stranger = socket.socket(socket.AF_UNIX)
        stranger.connect(directory.socket)
        stranger.settimeout(30)
        stranger.sendall(data)
        try:
            ended = stranger.recv(1000) == b""
        except ConnectionResetError:
            ended = True
        stranger.close()
        assert ended
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        with open(directory.log) as log:
            assert "is closed" in log.read()


def test_module_that_starts_threads_is_not_preloaded(pool_name, tmp_path):
    (tmp_path / "threaded_module.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    text = (
        "import sys; sys.path.insert(0, sys.argv[2])\nimport procjobs\n"
        "with procjobs.Pool(sys.argv[1], workers=1, preload=['threaded_module']) as pool:\n"
        "    print(pool.submit(pow, 2, 3).result(30), pool.stats().problem)\n"
    )
    out, told = run_script(text, pool_name, str(tmp_path)).communicate(timeout=60)
    assert ("8 None\n", True) == (out, "PoolDegraded: " in told and "threaded_module starts a thread" in told)
    log = rundir.RunDir(rundir.find_base(), pool_name).log
    with open(log) as file:
        assert "threaded_module starts a thread" in file.read()


def test_result_is_gone_after_its_time(pool_name):
    with procjobs.Pool(pool_name, workers=1, result_ttl=0.05) as pool:
        job = pool.submit(jobs.add, 1, 2)
        assert 3 == job.result(30)
        wait_until(lambda: is_unknown(pool, job.id))
        with pytest.raises(procjobs.UnknownJob):
            pool.job(job.id)


def is_unknown(pool, job_id):
    try:
        pool.status(job_id)
    except procjobs.UnknownJob:
        return True
    return False


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_process_of_another_user_is_refused_even_when_it_reaches_the_socket(pool_name):
    with procjobs.Pool(pool_name, workers=1) as pool:
        directory = rundir.RunDir(rundir.find_base(), pool_name)
        read, write = os.pipe()
        stranger = socket.socket(socket.AF_UNIX)
        stranger.settimeout(30)
        opened = [(directory.base, 0o755), (directory.path, 0o755), (directory.socket, 0o666)]
        for path, mode in opened:
            os.chmod(path, mode)
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            stranger.connect(directory.socket)
            os.write(write, stranger.recv(10) or b"closed")
            os._exit(0)
        os.waitpid(child, 0)
        os.chmod(directory.base, 0o700)
        assert b"closed" == os.read(read, 10)
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        with open(directory.log) as log:
            assert "a process of user 65534 was refused" in log.read()
        for fd in (read, write):
            os.close(fd)
        stranger.close()


def test_client_that_does_not_read_blocks_nobody(pool_name):
    text = (
        "import procjobs, sys, os, time\nfrom tests.process import jobs\n"
        "pool = procjobs.Pool(sys.argv[1], workers=1)\n"
        "pool._link.connect()._thread = object()\n"  # it never reads an answer
        "for _ in range(300): pool.submit(jobs.echo, b'x' * 20_000)\n"
        "print('sent', flush=True); time.sleep(600)\n"  # job
    )
    with procjobs.Pool(pool_name, workers=1, result_memory_bytes=1_000_000) as pool:
        script = run_script(text, pool_name, cwd=os.getcwd())
        assert "sent\n" == script.stdout.readline()
        wait_until(lambda: pool.stats().finished == 300)
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        script.kill()
        script.communicate()


def greeted(directory, **hello):
    """Return a socket that has said hello as a client does."""
    stranger = socket.socket(socket.AF_UNIX)
    stranger.settimeout(30)
    stranger.connect(directory.socket)
    spec = os.memfd_create("spec")
    os.write(spec, b'{"sys_path": [], "cwd": "/", "preload": [], "initializer": null}')
    text = json.dumps({"pid": 1, "generation": "strange", "executable": sys.executable, **hello}).encode()
    socket.send_fds(stranger, [wire.frame(wire.Frame.HELLO, HELLO + text, descriptors=1)], [spec])
    os.close(spec)
    return stranger


@pytest.mark.parametrize(
    "data",
    [
        wire.frame(wire.Frame.SUBMIT, b"x" * 50),
        wire.frame(wire.Frame.SUBMIT, b"x"),
        wire.frame(wire.Frame.SUBMIT, b"x" * 50, descriptors=1),
        wire.frame(wire.Frame.KIND, wire.KIND.pack(1, 2) + b"{}"),
        wire.frame(wire.Frame.KIND, wire.KIND.pack(1, 44) + b'{"name": "n", "options": {"timeout": "soon"}}'[:44]),
        wire.frame(wire.Frame.KIND, b'\x01\0\0\0\x2f\0\0\0{"name": "n", "options": {"timeout": 1' + b"0" * 10 + b"}}"),
        wire.frame(wire.Frame.REQUEST, wire.U32.pack(1) + b'{"call": "resize", "workers": [0, "x"]}'),
        wire.frame(wire.Frame.REQUEST, wire.U32.pack(1) + b'{"call": "cancel", "id": 5}'),
        wire.frame(wire.Frame.REQUEST, b"\x01"),
        wire.frame(wire.Frame.FINISHED, b"x" * 100),
        wire.frame(wire.Frame.READY, b""),
    ],
)
def test_nonsense_after_hello_closes_that_connection_and_nobody_else_notices(pool_name, data):
    with procjobs.Pool(pool_name, workers=1) as pool:
        directory = rundir.RunDir(rundir.find_base(), pool_name)
        stranger = greeted(directory)
        stranger.sendall(data)
        received = True
        while received:
            try:
                received = stranger.recv(10_000)
            except ConnectionResetError:
                break
        stranger.close()
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        with open(directory.log) as log:
            text = log.read()
        assert ("is closed" in text, "bug" in text) == (True, False)


def test_files_of_a_killed_supervisor_are_swept_by_the_next_of_any_name(pool_name):
    pool = procjobs.Pool(pool_name, workers=1)
    supervisor = pool.stats().supervisor_pid
    os.kill(supervisor, 9)
    wait_until(lambda: not os.path.exists(f"/proc/{supervisor}"))
    pool.shutdown()
    directory = rundir.RunDir(rundir.find_base(), pool_name)
    assert os.path.exists(directory.path)
    procjobs.Pool(workers=1).shutdown()
    assert (False, False) == (os.path.exists(directory.path), os.path.exists(directory.lock))


def test_warnings_are_given_at_the_line_of_the_application(pool_name):
    with (
        procjobs.Pool(pool_name, workers=1),
        pytest.warns(procjobs.SettingsDiffer) as told,
        procjobs.Pool(pool_name, workers=2),
    ):
        pass
    assert {__file__} == {warned.filename for warned in told}
