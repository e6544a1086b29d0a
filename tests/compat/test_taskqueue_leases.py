"""Pull queues of Google App Engine: who gets which task, for how long, and how often."""

from __future__ import annotations

import itertools
import os
import pathlib

import pytest

from procjobs.compat.taskqueue.constants import TOMBSTONE_SECONDS
from procjobs.compat.taskqueue.errors import Error, InvalidQueueModeError, TaskLeaseExpiredError, TombstonedTaskError
from procjobs.compat.taskqueue.settings.queues import RetryParameters
from procjobs.compat.taskqueue.store import leases, rows, tables
from procjobs.compat.taskqueue.store.leases import Wish
from tests.compat.conftest import open_queues
from tests.compat.taskqueue_tasks import SECOND, Child, LosesAnswer, change, new_queue, pull, push, rows_of
from tests.waiting import wait_until


@pytest.fixture
def database(taskqueue_database):
    return taskqueue_database


@pytest.fixture
def queue():
    return new_queue("pull")


def add(database, queue, *new):
    assert {None} == {one.error for one in rows.add(database, queue.name, new)}


def lease(database, queue, count=1000, seconds=60.0, **wish):
    return leases.lease(database, queue, Wish(seconds, count, **wish))


def names(leased):
    return [task.name for task in leased]


def expire(database, queue, *which):
    """Let time pass until the leases of tasks have ended."""
    for name in which:
        change(database, queue, name, eta_usec=tables.now_usec() - SECOND)


# Order and content ----------------------------------------------------------------------------------------------


def test_tasks_are_leased_in_the_order_of_their_eta_and_then_as_they_were_added(database, queue):
    now = tables.now_usec()
    etas = {"late": now - 1, "early": now - 9, "future": now + 99 * SECOND, "also-late": now - 1}
    for name, eta in etas.items():
        add(database, queue, pull(name, eta_usec=eta))
    assert ["early"] == names(lease(database, queue, 1))
    assert ["late", "also-late"] == names(lease(database, queue))
    assert [] == lease(database, queue)


def test_a_leased_task_has_its_payload_its_tag_the_end_of_its_lease_and_its_count(database, queue):
    add(database, queue, pull("a", payload=b"\0\xff", tag="t"), pull("b", payload=b""))
    before = tables.now_usec()
    first, second = lease(database, queue, seconds=0.5)
    assert ("a", b"\0\xff", "t", 1) == (first.name, first.payload, first.tag, first.retry_count)
    assert ("b", b"", None, 1) == (second.name, second.payload, second.tag, second.retry_count)
    assert before + SECOND // 2 <= first.eta_usec == second.eta_usec <= tables.now_usec() + SECOND // 2
    assert first.eta_usec == rows_of(database, queue)["a"].eta_usec


def test_a_task_comes_back_when_its_lease_ends_and_its_count_grows_by_one(database, queue):
    add(database, queue, pull("a"))
    counts = []
    for _ in range(3):
        counts += [task.retry_count for task in lease(database, queue)]
        assert [] == lease(database, queue)
        expire(database, queue, "a")
    assert [1, 2, 3] == counts


def test_a_lease_ends_by_itself(database, queue):
    add(database, queue, pull("a"))
    assert ["a"] == names(lease(database, queue, seconds=0.05))
    wait_until(lambda: lease(database, queue, seconds=60))


def test_a_thousand_tasks_are_leased_at_once(database, queue):
    for start in range(0, 1100, 100):
        add(database, queue, *[pull(f"n{number:04}", eta_usec=number) for number in range(start, start + 100)])
    assert [f"n{number:04}" for number in range(1000)] == names(lease(database, queue))
    assert 100 == len(lease(database, queue))
    assert 1100 == rows.fetch_statistics(database, [queue])[0].executed_last_minute


def test_tasks_of_a_push_queue_that_has_become_a_pull_queue_are_leased(database, queue):
    add(database, queue, push("a", payload=b"x=1"))
    assert [b"x=1"] == [task.payload for task in lease(database, queue)]


def test_tasks_of_a_push_queue_are_not_leased(database):
    queue = new_queue("push")
    with pytest.raises(InvalidQueueModeError, match="push queue"):
        lease(database, queue)
    with pytest.raises(InvalidQueueModeError, match="push queue"):
        leases.modify(database, queue, "a", 0, 1.0)


def test_a_lease_that_is_deleted_is_a_tombstone_and_never_leased_again(database, queue):
    add(database, queue, pull("a"))
    lease(database, queue, seconds=0)
    assert [True] == [one.was_deleted for one in rows.delete_tasks(database, queue.name, ["a"])]
    assert [] == lease(database, queue)


def test_a_lease_removes_names_that_can_be_used_again(database, queue):
    add(database, queue, pull("old"), pull("new"))
    rows.delete_tasks(database, queue.name, ["old", "new"])
    change(database, queue, "old", ended_usec=tables.now_usec() - TOMBSTONE_SECONDS * SECOND)
    lease(database, queue)
    assert ["new"] == [*rows_of(database, queue)]


def test_a_lease_whose_answer_was_lost_is_given_once_more(database, queue):
    lossy = LosesAnswer(database)
    add(database, queue, pull("a"), pull("b"))
    (task,) = lease(lossy, queue, 1)
    assert ("a", 1, rows_of(database, queue)["a"].eta_usec) == (task.name, task.retry_count, task.eta_usec)
    until = leases.modify(lossy, queue, "a", task.eta_usec, 5.0)
    assert until == rows_of(database, queue)["a"].eta_usec
    assert ["b"] == names(lease(lossy, queue))


# Tags -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tagged(database, queue):
    tags = ["parse", "render", None, "parse", None, "render"]
    add(database, queue, *[pull(f"n{number}", tag=tag, eta_usec=number) for number, tag in enumerate(tags)])
    return queue


def test_tasks_of_a_tag_are_leased(database, tagged):
    assert ["n1", "n5"] == names(lease(database, tagged, by_tag=True, tag="render"))
    assert [] == lease(database, tagged, by_tag=True, tag="render")
    assert [] == lease(database, tagged, by_tag=True, tag="other")


def test_without_a_tag_it_is_that_of_the_task_that_is_due_first(database, tagged):
    assert ["n0"] == names(lease(database, tagged, 1, by_tag=True))
    assert ["n1", "n5"] == names(lease(database, tagged, by_tag=True))
    assert ["n2", "n4"] == names(lease(database, tagged, by_tag=True))  # tasks without a tag are a group, too
    assert ["n3"] == names(lease(database, tagged, by_tag=True))
    assert [] == lease(database, tagged, by_tag=True)


def test_leases_without_tags_do_not_look_at_tags(database, tagged):
    assert ["n0", "n1", "n2", "n3"] == names(lease(database, tagged, 4))


# How often ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["queue", "task"])
def test_a_task_whose_leases_are_used_up_is_dropped_and_others_are_leased_instead(database, of):
    limit = RetryParameters.of(task_retry_limit=2)
    queue = new_queue("pull", retry=limit if of == "queue" else RetryParameters())
    own = limit if of == "task" else None
    add(database, queue, *[pull(f"n{number}", eta_usec=number, retry=own) for number in range(3)])
    for _ in range(2):
        assert ["n0", "n1"] == names(lease(database, queue, 2))
        expire(database, queue, "n0", "n1")
        change(database, queue, "n1", eta_usec=1)
        change(database, queue, "n0", eta_usec=0)
    assert ["n2"] == names(lease(database, queue, 2))
    found = rows_of(database, queue)
    assert ["ended", "ended", "waiting"] == [found[name].state for name in ("n0", "n1", "n2")]
    assert leases.USED_UP == found["n0"].outcome
    assert isinstance(rows.add(database, queue.name, [pull("n0")])[0].error, TombstonedTaskError)


def test_with_an_age_limit_beside_it_leases_are_not_counted(database):
    queue = new_queue("pull", retry=RetryParameters.of(task_retry_limit=1, task_age_limit=1))
    add(database, queue, pull("a"))
    for _ in range(3):
        assert ["a"] == names(lease(database, queue))
        expire(database, queue, "a")


# Changing a lease -----------------------------------------------------------------------------------------------


def test_a_lease_is_made_longer_and_given_up_by_its_holder(database, queue):
    add(database, queue, pull("a"))
    (task,) = lease(database, queue)
    before = tables.now_usec()
    longer = leases.modify(database, queue, "a", task.eta_usec, 120.0)
    assert before + 120 * SECOND <= longer <= tables.now_usec() + 120 * SECOND
    assert [] == lease(database, queue)
    with pytest.raises(TaskLeaseExpiredError):
        leases.modify(database, queue, "a", task.eta_usec, 120.0)  # of the lease as it was before
    leases.modify(database, queue, "a", longer, 0)
    assert [2] == [task.retry_count for task in lease(database, queue)]


def test_a_lease_that_has_ended_cannot_be_changed(database, queue):
    add(database, queue, pull("a"))
    lease(database, queue)
    expire(database, queue, "a")
    with pytest.raises(TaskLeaseExpiredError, match="'a'"):
        leases.modify(database, queue, "a", rows_of(database, queue)["a"].eta_usec, 60.0)


def test_a_lease_that_another_one_has_followed_cannot_be_changed(database, queue):
    add(database, queue, pull("a"))
    (first,) = lease(database, queue)
    expire(database, queue, "a")
    (second,) = lease(database, queue)
    with pytest.raises(TaskLeaseExpiredError):
        leases.modify(database, queue, "a", first.eta_usec, 60.0)
    assert second.eta_usec == rows_of(database, queue)["a"].eta_usec


def test_leases_of_tasks_that_are_gone_cannot_be_changed(database, queue):
    add(database, queue, pull("a"))
    (task,) = lease(database, queue)
    rows.delete_tasks(database, queue.name, ["a"])
    with pytest.raises(TombstonedTaskError, match="'a'"):
        leases.modify(database, queue, "a", task.eta_usec, 60.0)
    with pytest.raises(Error, match="no task 'unknown'"):
        leases.modify(database, queue, "unknown", task.eta_usec, 60.0)


# Several processes ----------------------------------------------------------------------------------------------

TASKS = 300


def test_several_processes_that_lease_at_once_never_get_the_same_task(database, queue):
    for start in range(0, TASKS, 100):
        add(database, queue, *[pull(f"n{number}", eta_usec=number) for number in range(start, start + 100)])

    def consume():
        got = []
        while leased := lease(database, queue, 7):
            got += names(leased)
        return got

    consumers = [Child(consume) for _ in range(3)]
    for consumer in consumers:
        consumer.go()
    shares = [consumer.result() for consumer in consumers]
    assert [f"n{number}" for number in range(TASKS)] == sorted(itertools.chain(*shares), key=lambda name: int(name[1:]))
    assert {1} == {row.retry_count for row in rows_of(database, queue).values()}


def test_a_consumer_that_is_killed_at_any_moment_loses_no_task(database, queue, tmp_path):
    """Each of them is killed while it leases and deletes in a loop; all tasks come back from their leases, none twice."""
    for start in range(0, TASKS, 100):
        add(database, queue, *[pull(f"n{number}") for number in range(start, start + 100)])
    ledger = tmp_path / "deleted"

    def consume():
        out = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        while leased := lease(database, queue, 3, seconds=3600):
            for one in rows.delete_tasks(database, queue.name, names(leased)):
                os.write(out, f"{one.name} {one.was_deleted}\n".encode())

    for number in range(6):
        victim = Child(consume)
        victim.go()
        wait_until(lambda least=5 + 13 * number: lines_of(ledger) >= least)
        victim.kill()
    waiting = []

    def all_are_leased():  # the server may still be busy with what a victim has sent it
        waiting[:] = [name for name, row in rows_of(database, queue).items() if row.state == "waiting"]
        expire(database, queue, *waiting)
        return set(waiting) == set(names(lease(database, queue)))

    wait_until(all_are_leased)
    written = ledger.read_text().split("\n")
    assert len(set(written)) == len(written)
    assert not any("False" in line for line in written)
    assert not {line.split(" ")[0] for line in written} & set(waiting)
    assert TASKS == len(rows_of(database, queue))


def lines_of(path: pathlib.Path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_in_postgresql_a_lease_does_not_wait_for_another_one(postgres_url, queue):
    with open_queues(postgres_url) as database:
        add(database, queue, *[pull(f"n{number}", eta_usec=number) for number in range(4)])

        def lease_two(connection):
            first = leases._Call(queue, Wish(60.0, 2)).run(connection)
            other = Child(lambda: names(lease(database, queue, 2)))
            other.go()
            return names(first), other.result()

        assert (["n0", "n1"], ["n2", "n3"]) == database.run(lease_two)
        assert {1} == {row.retry_count for row in rows_of(database, queue).values()}
