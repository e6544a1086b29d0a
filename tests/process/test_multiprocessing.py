"""Objects of multiprocessing, sockets and other handles as arguments of jobs."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.managers
import os
import socket
import subprocess
import sys
from multiprocessing import resource_sharer, resource_tracker, shared_memory

import pytest

import procjobs

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True, scope="module")
def helpers():
    """Start what multiprocessing keeps in this process before the first test, whose leavings it would seem to be."""
    resource_tracker.ensure_running()
    SPAWN.Value("i", 1)  # with a heap
    reader, writer = multiprocessing.Pipe()
    with reader, writer:
        resource_sharer.DupFd(reader.fileno()).detach()
    yield
    resource_sharer.stop()


@pytest.fixture
def manager():
    # Not forked: the test's own process has threads.
    with multiprocessing.managers.SyncManager(ctx=SPAWN) as manager:
        yield manager
    manager._process.close()  # pytest still holds the manager


def put(queue, value):
    queue.put(value)
    return type(queue).__name__


def fill(namespace, values):
    values.append(1)
    namespace.x = len(values)
    return {"values": list(values)}


def make_nested(outer):
    """Put a proxy into another one: the manager's process connects to itself, and this one to what it gets back."""
    outer["inner"] = outer
    return sorted(outer["inner"].keys())


def put_in_process(queue):
    child = multiprocessing.get_context("fork").Process(target=put, args=(queue, "from a child"))
    child.start()
    child.join()
    return child.exitcode


def give_back(value):
    return value


def authkey():
    return bytes(multiprocessing.current_process().authkey)


def test_proxies_of_a_manager_work_as_arguments_and_results(pool, manager):
    queue, event = manager.Queue(), manager.Event()
    assert pool.submit(put, queue, "here").result(30)
    assert "here" == queue.get(timeout=30)
    assert {"values": [1]} == pool.submit(fill, manager.Namespace(), manager.list()).result(30)
    event.set()
    assert pool.submit(give_back, event).result(30).is_set()
    assert ["inner"] == pool.submit(make_nested, manager.dict()).result(30)
    assert 0 == pool.submit(put_in_process, queue).result(30)
    assert "from a child" == queue.get(timeout=30)


def test_proxy_works_in_closures_and_containers_and_for_functions_known_before(pool, manager):
    assert 1 == pool.submit(give_back, 1).result(30)
    queue = manager.Queue()
    pool.submit(lambda: queue.put("closure")).result(30)
    assert "closure" == queue.get(timeout=30)
    assert pool.submit(give_back, {"q": [queue]}).result(30)["q"][0].empty()


def test_two_processes_with_different_keys_use_one_pool(pool_name, manager):
    program = (
        "import multiprocessing, procjobs, sys\n"
        "from tests.process.test_multiprocessing import authkey, give_back\n"
        f"pool = procjobs.Pool({pool_name!r}, workers=1)\n"
        "print(pool.submit(authkey).result(30) == bytes(multiprocessing.current_process().authkey))\n"
    )
    with procjobs.Pool(pool_name, workers=1) as pool:
        for _ in range(2):
            assert authkey() == pool.submit(authkey).result(30)
            said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
            assert "True" == said.stdout.strip()
        queue = manager.Queue()
        pool.submit(put, queue, 1).result(30)
        pool.stop()


def test_key_is_in_no_file_of_the_pool_and_not_in_its_store(pool_name, manager, tmp_path):
    database = tmp_path / "jobs.db"
    with procjobs.Pool(pool_name, workers=1, store=f"sqlite:///{database}") as pool:
        queue = manager.Queue()
        job = pool.submit(put, queue, 1)
        job.wait_accepted(30)
        assert "AutoProxy[Queue]" == job.result(30)
        written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        log = b"".join(_contents(pool.directory if hasattr(pool, "directory") else None))
        pool.stop()
    assert b"give_back" in written or b"put" in written
    for text in (authkey(), authkey().hex().encode()):
        assert text not in written
        assert text not in log


def _contents(directory):
    for root, _, files in os.walk(directory or procjobs.host.rundir.find_base()):
        for name in files:
            with contextlib.suppress(OSError), open(os.path.join(root, name), "rb") as file:
                yield file.read()


def test_job_whose_manager_has_ended_says_so(pool):
    with multiprocessing.managers.SyncManager(ctx=SPAWN) as manager:
        queue = manager.Queue()
        pool.pause()
        job = pool.submit(put, queue, 1)
    pool.resume()
    with pytest.raises(procjobs.PayloadError, match=r"manager.* has ended"):
        job.result(30)


def test_manager_with_a_key_of_its_own_is_refused_with_the_remedy(pool):
    why = r"argument 0 .*authkey of its own.*current_process\(\).authkey"
    other = multiprocessing.managers.SyncManager(authkey=b"another", ctx=SPAWN)
    with other as manager, pytest.raises(procjobs.PayloadError, match=why):
        pool.submit(put, manager.Queue(), 1)


# Handles ----------------------------------------------------------------------------------------------------------


def send(connection, value):
    connection.send(value)
    return connection.recv()


def test_ends_of_pipes_work_in_the_job(pool):
    ours, theirs = multiprocessing.Pipe()
    with ours:
        job = pool.submit(send, theirs, "from the job")
        theirs.close()  # the job has its own
        assert "from the job" == ours.recv()
        ours.send("to the job")
        assert "to the job" == job.result(30)


def test_handle_that_an_attempt_has_taken_is_gone_and_the_next_one_says_so(pool):
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, pytest.raises(procjobs.PayloadError, match="an earlier attempt has taken it"):
        pool.options(retries=1, backoff=0).submit(die, theirs).result(30)


def die(_connection):
    os._exit(1)


def test_sockets_work_in_the_job(pool):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert 4 == pool.submit(theirs_send, theirs).result(30)
        assert b"here" == ours.recv(10)


def theirs_send(sock):
    return sock.send(b"here")


def sum_of(memory):
    total = sum(bytes(memory.buf[:10]))
    memory.buf[0] = 99
    memory.close()
    return total


def first_of(values):
    first, values[1] = values[0], "changed"
    values.shm.close()
    return first


def test_shared_memory_is_shared_and_outlives_the_worker(pool_name):
    memory = shared_memory.SharedMemory(create=True, size=100)
    values = shared_memory.ShareableList(["first", "a long second one"])
    try:
        memory.buf[:10] = bytes(range(10))
        with procjobs.Pool(workers=1, max_jobs_per_worker=1) as pool:
            assert (45, "first") == (pool.submit(sum_of, memory).result(30), pool.submit(first_of, values).result(30))
        assert (99, "changed") == (memory.buf[0], values[1])
        shared_memory.SharedMemory(memory.name).close()  # it is still there
    finally:
        for each in (memory, values.shm):
            each.close()
            each.unlink()


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (SPAWN.Queue, r"Manager\(\).*Queue"),
        (SPAWN.SimpleQueue, "Manager"),
        (SPAWN.Lock, "Manager"),
        (SPAWN.Event, "Manager"),
        (lambda: SPAWN.Value("i", 1), "Manager"),
        (lambda: SPAWN.Semaphore(1), "Manager"),
    ],
)
def test_what_multiprocessing_shares_by_inheritance_alone_is_refused_with_the_remedy(pool, make, remedy):
    with pytest.raises(procjobs.PayloadError, match=f"(?s)argument 0 .*{remedy}"):
        pool.submit(give_back, make())


def test_handle_as_a_result_is_refused(pool):
    with pytest.raises(procjobs.PayloadError, match="Connection"):
        pool.submit(multiprocessing.Pipe).result(30)
