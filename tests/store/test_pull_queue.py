"""Pull queues, on a file without a store, on SQLite and on PostgreSQL: one consumer at a time, and nothing is ever lost."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading

import pytest

import procjobs
from procjobs.host import rundir, signature
from procjobs.store import consumers, holders
from procjobs.store.database import open_engine
from procjobs.store.holders import Holder
from tests.pull_program import Consumer
from tests.store.conftest import Store

from ..conftest import wait_until


@pytest.fixture(params=[None, "sqlite_url", "postgres_url"], ids=["no store", "sqlite", "postgresql"])
def queue(request, pool_name):
    """An empty pull queue, once in each place that it can have."""
    url = request.param and request.getfixturevalue(request.param)
    yield procjobs.PullQueue("work", pool=pool_name, store=url)
    consumers.forget_all()
    signature.remove_signed_directory(items_of(pool_name))


@pytest.fixture
def start(queue):
    """Start consumers in processes of their own."""
    started = []

    def start():
        started.append(Consumer(queue))
        return started[-1]

    yield start
    for consumer in started:
        consumer.close()


def items_of(pool):
    return rundir.RunDir(rundir.find_base(), pool).items


def url_of(queue):
    return queue.store or f"sqlite:///{items_of(queue.pool)}/items.db"


def rows(queue):
    return Store(url_of(queue)).rows("SELECT id, holder, tries FROM procjobs_items ORDER BY place")


def take_value(queue, timeout=6.0):
    item = queue.take(timeout)
    return "nothing" if item is None else item.value


# Order and ends of items ---------------------------------------------------------------------------------------


def test_items_come_oldest_first_in_each_queue(queue):
    other = queue.named("other")
    ids = queue.put_many([1, 2])
    other.put("a")
    ids.append(queue.put(None))
    assert "a" == other.take().value
    taken = [queue.take() for _ in range(3)]
    assert [1, 2, None] == [item.value for item in taken]
    assert ids == [item.id for item in taken]
    assert queue.take() is None
    assert [] == rows(queue)


def test_queues_of_two_pools_do_not_meet(queue):
    other = procjobs.PullQueue("work", pool="another", store=url_of(queue))
    queue.put(1)
    assert other.take() is None
    assert 1 == queue.take().value


def test_item_is_held_until_its_thread_takes_the_next_one(queue, start):
    queue.put_many([1, 2, 3])
    one, two = start(), start()
    assert 1 == one.ask("take()")
    assert 2 == two.ask("take()")
    assert (1, 2, 0) == queue.counts()
    assert 3 == one.ask("take()")
    assert (0, 2, 0) == queue.counts()
    assert "nothing" == one.ask("take()")
    assert (0, 1, 0) == queue.counts()


def test_item_that_is_done_or_given_back_is_so_once(queue, start):
    queue.put_many([1, 2])
    consumer = start()
    assert 1 == consumer.ask("take()")
    assert consumer.ask("items[0].give_back()")
    assert not consumer.ask("items[0].done()")
    assert 1 == take_value(queue)
    assert 2 == consumer.ask("take()")
    assert consumer.ask("in_thread(items[1].done)")
    assert not consumer.ask("items[1].done()")
    assert (0, 1, 0) == queue.counts()


def test_item_counts_how_often_it_was_taken(queue):
    queue.put(1)
    item = queue.take()
    assert 1 == item.tries
    item.give_back()
    assert 2 == queue.take().tries


# Consumers that end --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_reaped", [True, False], ids=["reaped", "a zombie"])
def test_item_of_a_killed_consumer_comes_first_again(queue, start, is_reaped):
    queue.put_many([1, 2, 3])
    consumer = start()
    assert 1 == consumer.ask("take()")
    consumer.kill(reap=is_reaped)
    assert [1, 2, 3] == [take_value(queue), take_value(queue), take_value(queue)]


def test_item_of_a_consumer_that_exits_comes_back(queue, start):
    queue.put(1)
    consumer = start()
    assert 1 == consumer.ask("take()")
    consumer.send("sys.exit()")
    assert 0 == consumer.exit_code()
    assert 1 == queue.take().value  # at once: who asks is told nothing before ended holders were looked for


def test_item_of_a_thread_that_ends_comes_back(queue, start):
    queue.put_many([1, 2])
    consumer = start()
    assert 1 == consumer.ask("in_thread(take)")
    assert (2, 0, 0) == queue.counts()
    assert 1 == consumer.ask("keep_thread(take)")
    assert 2 == take_value(queue)
    consumer.ask("leave_thread()")
    assert 1 == take_value(queue)


def test_ended_thread_is_seen_by_others_where_it_could_not_give_its_item_back(queue, start):
    queue.put(1)
    consumer = start()
    assert (1, 0, 0) == consumer.ask("tuple(queue.counts())")
    consumer.ask("setattr(sys.modules['procjobs.store.consumers'].Consumers, 'give_back', None)")
    assert 1 == consumer.ask("in_thread(take)")
    assert 1 == take_value(queue)


def test_stopped_consumer_keeps_its_item(queue, start):
    queue.put_many([1, 2])
    consumer, other = start(), start()
    assert 1 == consumer.ask("take()")
    consumer.signal(signal.SIGSTOP)
    assert 2 == other.ask("take()")
    assert "nothing" == other.ask("take(2.5)")
    consumer.signal(signal.SIGCONT)
    assert consumer.ask("items[0].done()")
    assert (0, 0, 0) == queue.counts()


def test_order_and_a_held_item_survive_the_kill_of_everything(queue, start):
    producer, consumer = start(), start()
    producer.ask("queue.put_many([1, 2, 3])")
    assert 1 == consumer.ask("take()")
    producer.kill()
    consumer.kill()
    later = start()
    assert [1, 2, 3] == [later.ask("take(6)"), later.ask("take()"), later.ask("take()")]


# Forks ---------------------------------------------------------------------------------------------------------


def test_child_of_a_fork_can_use_both_calls_and_has_no_item_of_its_parent(queue, start):
    queue.put_many([1, 2])
    consumer = start()
    assert 1 == consumer.ask("take()")
    assert 2 == consumer.ask("in_child(take)")
    assert 2 == consumer.ask("in_child(queue.put, 3) and in_child(take)")
    assert [2, 3] == [take_value(queue), take_value(queue)]
    assert consumer.ask("items[0].done()")
    assert (0, 1, 0) == queue.counts()


def test_child_cannot_end_an_item_of_its_parent(queue):
    queue.put(1)
    item = queue.take()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            item.done()
        except procjobs.ProcjobsError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        assert "only the process that took an item can say that it is done" in answer.read()
    os.waitpid(pid, 0)
    assert (0, 1, 0) == queue.counts()


# Waiting -------------------------------------------------------------------------------------------------------


def test_waiting_consumer_gets_what_another_process_puts(queue, start):
    consumer = start()
    consumer.send("take(None)")
    queue.put(1)
    assert 1 == consumer.receive()
    consumer.send("take(60)")
    queue.put(2)
    assert 2 == consumer.receive()


def test_waiting_thread_gets_what_another_thread_puts(queue):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(take_value(queue, 60)))
    thread.start()
    queue.put(1)
    thread.join()
    assert [1] == answers
    wait_until(lambda: (1, 0, 0) == queue.counts())  # it has ended without `done`


def test_waiting_ends_at_its_timeout_and_with_ctrl_c(queue, start):
    assert queue.take(0.01) is None
    consumer = start()
    assert "nothing" == consumer.ask("take()")
    consumer.send("take(None)")
    wait_until(lambda: is_waiting(consumer.pid))
    consumer.signal(signal.SIGINT)
    assert "interrupted" == consumer.receive()
    queue.put(1)
    assert 1 == consumer.ask("take()")


def is_waiting(pid):
    """Whether a process has not read anything more to do, and is not about to."""
    with open(f"/proc/{pid}/wchan") as file, contextlib.suppress(OSError):
        if "futex" in file.read():
            return True
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


@pytest.mark.parametrize("timeout", ["soon", True, float("nan"), float("inf"), [1]])
def test_timeout_that_is_none_is_refused(queue, timeout):
    with pytest.raises(procjobs.ConfigurationError, match="timeout="):
        queue.take(timeout)


# What cannot be pickled, and what cannot be unpickled -----------------------------------------------------------


class Unwilling:
    """It can be pickled, and is not unpickled where `is_willing` is not set."""

    is_willing = False

    def __reduce__(self):
        return _make_unwilling, ()


def _make_unwilling():
    if not Unwilling.is_willing:
        raise RuntimeError("not here")
    return "made"


def test_item_that_cannot_be_unpickled_is_named_and_does_not_stand_in_the_way(queue, monkeypatch):
    bad, good = queue.put_many([Unwilling(), 2])
    with pytest.raises(procjobs.PayloadError, match=f"item {bad} of queue 'work' .* RuntimeError: not here.*set aside"):
        queue.take()
    item = queue.take()
    assert (good, 2) == (item.id, item.value)
    assert (0, 1, 1) == queue.counts()
    assert {bad: "RuntimeError: not here"} == queue.problems()
    item.give_back()
    monkeypatch.setattr(Unwilling, "is_willing", True)
    assert 0 == queue.restore(good)
    assert 1 == queue.restore()
    assert ["made", 2] == [take_value(queue), take_value(queue)]


def test_item_that_cannot_be_pickled_or_is_too_large_is_refused(queue):
    with pytest.raises(procjobs.PayloadError, match=r"the item\['lock'\] is a _thread.lock"):
        queue.put_many([1, {"lock": threading.Lock()}])
    with pytest.raises(procjobs.PayloadError, match=r"67108864 bytes.*write it to a file"):
        queue.put(b"x" * (64 * 2**20))
    assert (0, 0, 0) == queue.counts()


@pytest.mark.parametrize("name", ["", "x" * 101, "a\0", 5, None])
def test_name_that_can_be_none_is_refused(name):
    with pytest.raises(procjobs.ConfigurationError, match="cannot be the name of a queue"):
        procjobs.PullQueue(name, pool="some")


# Interruptions -------------------------------------------------------------------------------------------------


def test_item_that_was_taken_and_never_seen_waits_again(queue, monkeypatch):
    queue.put_many([1, 2])

    def interrupted(self, row):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(consumers.Consumers, "deliver", interrupted)
        with pytest.raises(KeyboardInterrupt):
            queue.take()
    assert [1, 2] == [take_value(queue), take_value(queue)]


def test_interrupted_transaction_leaves_nothing(queue, monkeypatch):
    from procjobs.store.pull_table import PullTable

    def interrupted(*_args):
        raise KeyboardInterrupt

    queue.put(1)
    add = PullTable.add
    with monkeypatch.context() as patch:
        patch.setattr(PullTable, "add", lambda *args: (add(*args), interrupted()))
        with pytest.raises(KeyboardInterrupt):
            queue.put(2)
    queue.put(3)
    assert [1, 3, "nothing"] == [take_value(queue), take_value(queue), take_value(queue, 0)]


def test_signal_handler_that_interrupts_a_call_is_told_so(queue, monkeypatch):
    from procjobs.store.pull_table import PullTable

    queue.put(1)
    monkeypatch.setattr(PullTable, "add", lambda *_args: queue.take())
    with pytest.raises(procjobs.StoreUnavailable, match="call it outside of signal handlers"):
        queue.put(2)


# Holders elsewhere ---------------------------------------------------------------------------------------------


def held_elsewhere(queue, number):
    """Have the oldest item held by a process of another host or container, with this number."""
    here = holders.describe_thread(number, 1)
    elsewhere = Holder(number, 1, here.thread, 0, here.process._replace(namespace=1, host="elsewhere"))
    Store(url_of(queue)).write("UPDATE procjobs_items SET holder = :holder", holder=str(elsewhere))


def test_item_of_a_holder_out_of_sight_comes_back_without_its_lock(queue):
    queue.put(1)
    held_elsewhere(queue, 4711)
    assert 1 == take_value(queue, 6)


def test_item_of_a_holder_out_of_sight_stays_with_its_lock(queue, start):
    queue.put(1)
    other = start()
    assert 1 == other.ask("take()")
    number = int(other.ask("items[0]._holder.partition('.')[0]"))
    held_elsewhere(queue, number)
    assert "nothing" == take_value(queue, 6 if "postgresql" in url_of(queue) else 2)
    other.kill()
    assert 1 == take_value(queue, 6)


def test_holder_that_nobody_can_read_is_none(queue):
    queue.put(1)
    Store(url_of(queue)).write("UPDATE procjobs_items SET holder = 'somebody'")
    assert 1 == take_value(queue)


# Places --------------------------------------------------------------------------------------------------------


def test_files_without_a_store_are_this_users_alone(pool_name):
    queue = procjobs.PullQueue(pool=pool_name)
    try:
        queue.put(1)
        place = items_of(pool_name)
        assert signature.is_signed_directory(place)
        assert 0o700 == stat.S_IMODE(os.stat(place).st_mode)
        names = [name for name in os.listdir(place) if name != signature.FILE]
        assert {"items.db", "items.db-holders"} <= set(names)
        assert {0o600} == {stat.S_IMODE(os.stat(f"{place}/{name}").st_mode) for name in names}
    finally:
        consumers.forget_all()
        signature.remove_signed_directory(items_of(pool_name))


def test_foreign_directory_is_left_alone(pool_name):
    place = items_of(pool_name)
    os.mkdir(place)
    open(f"{place}/notes", "w").close()
    try:
        with pytest.raises(procjobs.SupervisorError, match="procjobs did not make"):
            procjobs.PullQueue(pool=pool_name).put(1)
        assert ["notes"] == os.listdir(place)
    finally:
        os.unlink(f"{place}/notes")
        os.rmdir(place)


def test_queue_goes_on_where_its_file_was_removed(pool_name, tmp_path):
    queue = procjobs.PullQueue(pool=pool_name, store=f"sqlite:///{tmp_path}/queue.db")
    try:
        queue.put(1)
        for name in os.listdir(tmp_path):
            os.unlink(tmp_path / name)
        queue.put(2)
        assert [2, "nothing"] == [take_value(queue, 0), take_value(queue, 0)]
    finally:
        consumers.forget_all()


def test_store_that_cannot_be_used_is_named(pool_name, tmp_path):
    queue = procjobs.PullQueue(pool=pool_name, store=f"sqlite:///{tmp_path}/missing/queue.db")
    with pytest.raises(procjobs.StoreUnavailable, match=r"missing/queue.db cannot be used.*No such file"):
        queue.take(None)
    consumers.forget_all()


def test_newer_store_is_refused(sqlite_url, pool_name):
    queue = procjobs.PullQueue(pool=pool_name, store=sqlite_url)
    queue.put(1)
    consumers.forget_all()
    Store(sqlite_url).write("UPDATE procjobs_schema SET version = 99")
    with pytest.raises(procjobs.StoreUnavailable, match="Upgrade procjobs"):
        queue.take()
    consumers.forget_all()


def test_hosts_share_the_items_of_a_store_unless_its_url_divides_them(sqlite_url, pool_name):
    try:
        procjobs.PullQueue(pool=pool_name, store=f"{sqlite_url}?procjobs_host=a").put(1)
        assert procjobs.PullQueue(pool=pool_name, store=f"{sqlite_url}?procjobs_host=b").take() is None
        assert 1 == procjobs.PullQueue(pool=pool_name, store=f"{sqlite_url}?procjobs_host=a").take().value
    finally:
        consumers.forget_all()


def test_pool_of_the_same_store_runs_beside_the_queue(started, store, pool_name):
    queue = procjobs.PullQueue(pool=pool_name, store=store.url)
    try:
        queue.put(1)
        pool = started()
        job = pool.submit(pow, 2, 10)
        queue.put(2)
        assert 1024 == job.result()
        assert [1, 2] == [take_value(queue), take_value(queue)]
    finally:
        consumers.forget_all()


def test_server_that_was_started_again_is_found_again(own_postgres_server, pool_name):
    server = own_postgres_server
    queue = procjobs.PullQueue(pool=pool_name, store=server.url(server.new_database()))
    try:
        queue.put_many([1, 2, 3])
        item = queue.take()
        server.stop("immediate")
        with pytest.raises(procjobs.StoreUnavailable, match="cannot be used"):
            item.done()
        server.start()
        assert item.done()
        server.stop()
        server.start()
        assert 2 == queue.take().value
        assert (1, 1, 0) == queue.counts()
    finally:
        consumers.forget_all()


def test_session_that_broke_is_renewed_while_its_item_is_held(postgres_server, postgres_url, pool_name):
    """A process of another host sees the lock alone."""
    queue = procjobs.PullQueue(pool=pool_name, store=postgres_url)
    try:
        queue.put(1)
        queue.take()
        database = postgres_url.partition("@/")[2].partition("?")[0]
        locks = (
            "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database "
            f"WHERE locktype = 'advisory' AND datname = '{database}'"
        )
        (before,) = postgres_server.connections(database)
        postgres_server.execute(f"SELECT pg_terminate_backend({before})")
        wait_until(lambda: postgres_server.connections(database) not in ([], [before]))
        wait_until(lambda: [(1,)] == postgres_server.execute(locks))
    finally:
        consumers.forget_all()


def test_every_take_finds_its_row_by_an_index(store):
    from procjobs.store import pull_table, schema

    with open_engine(store.url).connect() as connection, connection.begin() as transaction:
        schema.migrate(connection)
        connection.exec_driver_sql("SET enable_seqscan = off" if connection.dialect.name == "postgresql" else "SELECT 1")
        statement = pull_table.prepare(connection.dialect).find_oldest
        keyword = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
        values = ("p", "q") if connection.dialect.name == "sqlite" else {"b_pool": "p", "b_queue": "q"}
        plan = str(connection.exec_driver_sql(f"{keyword} {statement._text}", values).all())
        transaction.rollback()
    assert "procjobs_items_waiting" in plan
    assert "Sort" not in plan
    assert "TEMP B-TREE" not in plan
