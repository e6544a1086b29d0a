"""The simple queue: two calls, what they promise, and what they refuse."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import procjobs
from procjobs.compat import simplequeue
from procjobs.compat.simplequeue import settings
from procjobs.host import rundir, signature
from procjobs.store import consumers

from ..conftest import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fresh(pool_name):
    """The module as it is before the first call, with a pool of this test."""
    yield pool_name
    settings._base = None
    settings._queues.clear()
    consumers.forget_all()
    signature.remove_signed_directory(items_of(pool_name))


@pytest.fixture
def configured(fresh):
    """The queue of a pool of this test, without a store."""
    simplequeue.configure(pool=fresh)
    return fresh


def items_of(pool):
    return rundir.RunDir(rundir.find_base(), pool).items


def add(one, two=0):
    return one + two


def test_documented_loop_has_all_items_in_their_order(configured):
    ids = [simplequeue.enqueue(value) for value in (1, None, {"a": (2, 3)})]
    found = []
    while True:
        item = simplequeue.dequeue()
        if item is None:
            break
        found.append((item.id, item.value, item.args, item.kwargs, item.queue, item.tries))
    assert [(ids[0], 1), (ids[1], None), (ids[2], {"a": (2, 3)})] == [entry[:2] for entry in found]
    assert {((), (), "default", 1)} == {(entry[2], tuple(entry[3]), *entry[4:]) for entry in found}
    assert all(isinstance(entry[0], str) for entry in found)


def test_item_is_called_with_its_arguments(configured):
    simplequeue.enqueue(add, args=[1], kwargs={"two": 2})
    simplequeue.enqueue(lambda: configured)
    item = simplequeue.dequeue()
    assert (add, (1,), {"two": 2}) == (item.value, item.args, item.kwargs)
    assert 3 == item()
    assert configured == simplequeue.dequeue()()


def test_item_that_cannot_be_called_says_so(configured):
    simplequeue.enqueue(5)
    with pytest.raises(TypeError, match="cannot be called: it is of type int"):
        simplequeue.dequeue()()


def test_done_removes_an_item_once(configured):
    simplequeue.enqueue(1, queue="films")
    item = simplequeue.dequeue("films")
    assert item.done()
    assert not item.done()
    assert simplequeue.dequeue("films") is None


def test_item_of_a_thread_that_ended_is_dequeued_again(configured):
    simplequeue.enqueue(1)
    thread = threading.Thread(target=simplequeue.dequeue)
    thread.start()
    thread.join()
    item = simplequeue.dequeue(timeout=6)
    assert (1, 2) == (item.value, item.tries)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"item": 1, "args": 5}, TypeError, "args=5: expected a list or tuple"),
        ({"item": 1, "args": "ab"}, TypeError, "args='ab': expected a list or tuple"),
        ({"item": 1, "kwargs": [1]}, TypeError, r"kwargs=\[1\]: expected a dict"),
        ({"item": 1, "kwargs": {1: 2}}, TypeError, "kwargs={1: 2}: expected a dict"),
        ({"item": 1, "queue": 5}, TypeError, "queue=5: expected the name"),
        ({"item": 1, "queue": ""}, ValueError, "'' cannot be the name of a queue"),
        ({"item": threading.Lock()}, procjobs.PayloadError, "the item.value is a _thread.lock"),
        ({"item": 1, "args": [threading.Lock()]}, procjobs.PayloadError, r"the item.args\[0\] is a _thread.lock"),
    ],
)
def test_item_that_cannot_be_one_is_refused(configured, arguments, error, words):
    with pytest.raises(error, match=words):
        simplequeue.enqueue(**arguments)
    assert simplequeue.dequeue() is None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"queue": None}, TypeError), ({"queue": "a\n"}, ValueError), ({"timeout": "1"}, TypeError),
        ({"timeout": True}, TypeError), ({"timeout": -1}, ValueError), ({"timeout": float("nan")}, ValueError),
    ],
)  # fmt: skip
def test_dequeue_with_bad_arguments_changes_nothing(configured, arguments, error):
    simplequeue.enqueue(1)
    item = simplequeue.dequeue()
    with pytest.raises(error, match=next(iter(arguments))):
        simplequeue.dequeue(**arguments)
    assert item.done()


def test_configure_is_refused_once_the_queue_is_in_use(fresh, tmp_path):
    simplequeue.configure(pool=fresh)
    simplequeue.enqueue(1)
    simplequeue.configure(pool=fresh)
    with pytest.raises(procjobs.ConfigurationError, match=r"in use already, with pool='.*' and no store, .* a store: call"):
        simplequeue.configure(pool=fresh, store=f"sqlite:///{tmp_path}/queue.db")
    assert 1 == simplequeue.dequeue().value


@pytest.mark.parametrize("arguments", [{"pool": "a/b"}, {"pool": 5}, {"store": "mysql://x"}, {"store": 5}])
def test_configure_refuses_what_can_be_no_place(fresh, arguments):
    with pytest.raises(procjobs.ConfigurationError):
        simplequeue.configure(**arguments)


def test_store_stays_the_same_file_when_the_directory_changes(fresh, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    simplequeue.configure(pool=fresh, store="sqlite:///queue.db")
    simplequeue.enqueue(1)
    monkeypatch.chdir("/")
    simplequeue.enqueue(2, queue="other")
    assert [1, 2] == [simplequeue.dequeue().value, simplequeue.dequeue("other").value]
    assert (tmp_path / "queue.db").exists()


def test_store_true_is_a_file_of_the_pool_in_the_state_directory(fresh):
    simplequeue.configure(pool=fresh, store=True)
    simplequeue.enqueue(1)
    files = [Path(os.environ["XDG_STATE_HOME"], "procjobs", f"{fresh}.db{end}") for end in ("", "-holders")]
    assert files[0].exists()
    assert 1 == simplequeue.dequeue().value
    consumers.forget_all()
    for file in files:
        file.unlink()


# Many processes, and kills -------------------------------------------------------------------------------------


class Ledger:
    """Consumers in processes of their own, and the file in which they write what they do."""

    def __init__(self, path, pool, store):
        self.path = path
        self._command = [sys.executable, Path(__file__).parent / "simplequeue_consumer.py", path, store or "-", pool]
        self.killed = set()
        self._running = []

    def start(self):
        self._running.append(subprocess.Popen(self._command, env={**os.environ, "PYTHONPATH": str(ROOT)}))

    def kill_one(self):
        """Kill a consumer, once it has begun; its successor starts."""
        victim = self._running.pop(0)
        wait_until(lambda: ["ready", "-1", str(victim.pid)] in self.lines())
        self.killed.add(str(victim.pid))
        victim.send_signal(signal.SIGKILL)
        self.start()
        victim.wait()

    def lines(self):
        return [line.split() for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def ended(self):
        return {int(number) for what, number, _ in self.lines() if what == "end"}

    def finish(self):
        """Have the consumers end when there is nothing to do."""
        Path(f"{self.path}.stop").touch()
        assert {0} == {consumer.wait() for consumer in self._running}

    def close(self):
        for consumer in self._running:
            consumer.kill()
            consumer.wait()


@pytest.fixture(params=[None, "sqlite_url"], ids=["no store", "sqlite"])
def ledger(request, fresh, tmp_path):
    store = request.param and request.getfixturevalue(request.param)
    simplequeue.configure(pool=fresh, store=store)
    found = Ledger(tmp_path / "ledger", fresh, store)
    yield found
    found.close()


def test_four_killed_consumers_lose_no_item_and_share_none(ledger):
    """The long run is `python benchmarks/simple_queue.py`."""
    count = 400
    for _ in range(4):
        ledger.start()
    for number in range(count):
        simplequeue.enqueue(number)
        if number % 80 == 40:
            ledger.kill_one()
    everything = set(range(count))
    wait_until(lambda: ledger.ended() == everything, timeout=90, dump=lambda: str(sorted(everything - ledger.ended())))
    ledger.finish()
    assert 5 == len(ledger.killed)
    lines = ledger.lines()
    assert [] == [line for line in lines if line[0] == "CLASH"]
    taken = {}
    for what, number, pid in lines:
        if what == "take":
            assert taken.get(number) in {None, *ledger.killed}, f"item {number} was taken from a consumer that lives"
            taken[number] = pid
    assert simplequeue.dequeue() is None


def test_example_runs_and_has_every_number(tmp_path):
    numbers = ["15", "21", "1000003"]
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "simple_queue.py", *numbers],
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (0, "") == (done.returncode, done.stderr)
    assert "consumer" in done.stdout
    for line in ("15 = 3 * 5", "21 = 3 * 7", "1000003 = 1000003"):
        assert line in done.stdout
