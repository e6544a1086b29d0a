"""The settings of a queue, and its rules one at a time, at made-up times."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import pytest

from procjobs.dispatch.past_starts import PastStarts
from procjobs.errors import ConfigurationError
from procjobs.shared.config import PoolSettings
from procjobs.shared.queues import Queue, Rate, check_queues, parse_rate, refuse_queue
from procjobs.shared.states import JobState
from procjobs.shared.wire import Outcome

from .bench import Bench

RATES = [("1/s", (1, 1.0)), ("100/m", (100, 60.0)), ("5/h", (5, 3600.0)), ("2/d", (2, 86_400.0)), ("9/1m30s", (9, 90.0))]
NO_RATES = ["", "5", "/s", "0/s", "-1/s", "1.5/s", "1/week", "1/5", "1/0s", "1/", 5, True, "²/s", "1000000/s", " 1/s"]


@pytest.mark.parametrize(("text", "rate"), RATES)
def test_rates_are_read(text, rate):
    assert Rate(*rate) == parse_rate(text)


@pytest.mark.parametrize("text", NO_RATES)
def test_text_that_is_no_rate_is_refused(text):
    with pytest.raises(ConfigurationError, match=r"queue 'q': rate=.*expected how many are started"):
        check_queues({"q": {"rate": text}})


@pytest.mark.parametrize(
    ("queues", "text"),
    [
        (5, "expected names with their limits"),
        ({5: {}}, "queue=5: expected a name"),
        ({"": {}}, "expected a name"),
        ({"a\n": {}}, "expected a name"),
        ({"q": 5}, "queue 'q' is 5: expected procjobs.Queue"),
        ({"q": {"limits": 2}}, r"queue 'q' has no field 'limits' \(did you mean 'limit'\?\); there are: key_limit"),
        ({"q": Queue(limit=0)}, "limit=0: expected how many run at once"),
        ({"q": Queue(limit=True)}, "limit=True"),
        ({"q": {"key_limit": "2"}}, "key_limit='2'"),
        ({"q": Queue(key_rate="often")}, "key_rate='often'"),
    ],
)
def test_bad_queues_are_refused_by_name(queues, text):
    with pytest.raises(ConfigurationError, match=text):
        check_queues(queues)


def test_queues_travel_as_plain_values():
    settings = PoolSettings((1, 1), queues={"q": Queue(limit=2, rate="1/s"), "k": Queue(key_limit=None)}).validated()
    assert settings == PoolSettings.from_json(settings.to_json())
    assert {"q": Queue(key_limit=None)} == check_queues({"q": {"key_limit": "none"}})


def test_queue_is_shown_by_what_is_not_the_default():
    assert "Queue(limit=2)" == repr(Queue(limit=2, key_limit=1))
    assert ["Queue()", "Queue(key_limit=None)"] == [repr(Queue()), repr(Queue(key_limit=None))]


def test_refusal_says_what_there_is():
    assert "" == refuse_queue("a", ["a"], "media")
    assert "pool 'media' has no queue 'b': it was started without any" in refuse_queue("b", [], "media")


# Rules --------------------------------------------------------------------------------------------------------------


def bench(workers=(4, 4), **queue):
    return Bench(workers, queues={"q": Queue(**queue)})


def submit(bench, count=1, **options):
    return [bench.submit(queue="q", **options) for _ in range(count)]


def sent(bench, jobs):
    """Return which of the jobs were sent, by their places, in the order in which they were."""
    return [jobs.index(job) for job in bench.started() if job in jobs]


def test_no_more_than_the_count_start_in_any_period():
    world = bench(rate="3/s")
    jobs = submit(world, 2)
    world.turn(0.5)
    jobs += submit(world, 4)
    assert [0, 1, 2] == sent(world, jobs), "two at 0.0 and one at 0.5 s"
    world.finish_all()
    world.turn(0.49)
    assert [0, 1, 2] == sent(world, jobs)
    world.turn(0.02)
    assert [0, 1, 2, 3, 4] == sent(world, jobs), "those of 0.0 are a second ago"
    world.finish_all()
    world.turn(0.4)
    assert 5 == len(sent(world, jobs))
    world.turn(0.2)
    assert [0, 1, 2, 3, 4, 5] == sent(world, jobs)


def test_loop_wakes_when_the_rate_lets_the_next_one_start():
    world = bench(rate="2/m")
    begun = world.now
    submit(world)
    world.turn(10.0)
    submit(world, 3)
    world.finish_all()
    assert 2 == world.dispatcher.describe_queues()[0]["held"]
    assert begun + 60 == world.dispatcher.next_deadline(world.now)
    world.turn(50.0)
    world.finish_all()
    assert 1 == world.dispatcher.describe_queues()[0]["held"]
    assert begun + 70 == world.dispatcher.next_deadline(world.now)


def test_loop_wakes_again_where_the_start_that_it_woke_for_was_taken_back():
    world = bench((1, 1), rate="1/s")
    begun = world.now
    jobs = submit(world, 2)
    world.turn(0.5)
    world.workers.unread.add(jobs[0])
    world.dispatcher.pause(world.now)
    world.dispatcher.resume()
    world.turn()
    world.finish(jobs[0])
    world.turn(0.5)
    assert begun + 1.5 == world.dispatcher.next_deadline(world.now)
    world.turn(0.5)
    assert [0, 0, 1] == sent(world, jobs)


def test_rate_counts_a_retry_and_not_a_reclaimed_start():
    world = bench((1, 1), rate="2/h")
    (job,) = submit(world, retries=1, backoff=0.0)
    world.workers.unread.add(job)
    world.dispatcher.pause(world.now)
    world.dispatcher.resume()
    world.turn()
    assert [0, 0] == sent(world, [job]), "taken back unread, and sent again"
    world.finish(job, Outcome.RAISED)
    world.turn(0.1)
    assert [0, 0, 0] == sent(world, [job]), "the second of its two starts is the second of two in an hour"
    world.finish_all()
    assert [] == sent(world, submit(world))


def test_higher_priority_comes_first_of_those_that_wait():
    world = bench(limit=1)
    jobs = submit(world, 3) + submit(world, priority=5)
    for _ in jobs:
        world.finish_all()
    assert [0, 3, 1, 2] == sent(world, jobs)


def test_higher_priority_comes_before_one_that_was_called_and_is_not_started_yet():
    world = bench((1, 1), limit=1)
    jobs = submit(world, 3)
    first = world.submit(priority=5)
    world.finish(jobs[0])
    assert [first] == world.started()[1:], "the second of the line is called, and its worker is taken"
    jobs += submit(world, priority=9)
    world.finish(first)
    assert [0, 3] == sent(world, jobs)


def test_as_many_of_a_key_run_as_its_queue_says():
    world = bench(key_limit=2)
    jobs = [*submit(world, 3, key=b"a"), *submit(world, key=b"b")]
    assert [0, 1, 3] == sent(world, jobs)
    world.finish(jobs[0])
    assert [0, 1, 3, 2] == sent(world, jobs)


def test_throttled_job_does_not_pass_through_the_queue_for_workers():
    """A hundred thousand of them would have to be moved when the first of them comes to the front."""
    world = bench((1, 1), limit=1)
    submit(world, 2)
    world.submit()
    world.finish_all()
    before = len(world.generation.queue)
    submit(world, 5)
    assert (1, 1) == (before, len(world.generation.queue))


def test_key_is_limited_in_its_queue_and_forgotten_when_its_rate_is_over():
    world = bench(key_limit=None, key_rate="1/s")
    jobs = [*submit(world, 2, key=b"a"), *submit(world, 1, key=b"b")]
    assert [0, 2] == sent(world, jobs)
    world.finish_all()
    world.turn(1.0)
    assert [0, 2, 1] == sent(world, jobs)
    world.finish_all()
    limiters = world.dispatcher._pending.limiters
    assert ({}, 2) == (limiters._of_key, len(limiters._past_starts["q"]))
    world.turn(limiters.next_time() - world.now)
    assert (101.0625, 1) == (world.now, len(limiters._past_starts["q"]))
    world.turn(limiters.next_time() - world.now)
    assert (102.0625, {}, float("inf")) == (world.now, limiters._past_starts, limiters.next_time())


def test_rate_of_a_key_holds_for_a_job_that_comes_when_the_key_had_none():
    world = bench(key_limit=None, key_rate="2/s")
    jobs = submit(world, 2, key=b"a")
    world.finish_all()
    world.turn(0.9)
    jobs += submit(world, 1, key=b"a")
    assert [0, 1] == sent(world, jobs)
    world.turn(0.1)
    assert [0, 1, 2] == sent(world, jobs)


def test_key_whose_throttled_job_was_cancelled_keeps_nothing_but_its_starts():
    world = bench(key_limit=None, key_rate="1/h")
    _, second = submit(world, 2, key=b"a")
    limiters = world.dispatcher._pending.limiters
    limiter = weakref.ref(limiters._of_key["q", b"a"])
    gc.disable()  # its limiter must not wait for that
    try:
        assert world.dispatcher.cancel(second, world.now)
        world.finish_all()
        assert (None, {}) == (limiter(), limiters._of_key)
    finally:
        gc.enable()
    world.turn(3600.0)  # the alarm of the limiter that has gone
    assert submit(world, 1, key=b"a")[0].state is JobState.RUNNING


def test_throttled_jobs_that_are_cancelled_are_let_go():
    world = bench((1, 1), limit=1)
    running, *jobs = submit(world, 2000)
    kept = jobs[::100]
    for job in set(jobs) - set(kept):
        assert world.dispatcher.cancel(job, world.now)
    limiter = world.dispatcher._pending.limiters._of_queue["q"]
    assert len(kept) <= sum(map(len, limiter.waiting.values())) <= 3 * len(kept) + 100
    world.finish(running)
    for job in kept:
        assert job.state is JobState.RUNNING
        world.finish(job)
    assert sum(map(len, limiter.waiting.values())) <= 100


def test_a_hundred_thousand_keys_of_a_rate_take_little_memory_and_give_it_back():
    keys = [b"%032d" % n for n in range(100_000)]
    tracemalloc.start()
    try:
        past_starts = PastStarts(3600.0)
        for n, key in enumerate(keys):
            past_starts.keep(key, [n / 100])
        each = tracemalloc.get_traced_memory()[0] / len(keys)
        now, turns = 999.99 + 3600 / 16 + 3600.0, 0
        while past_starts.next_time() <= now:
            past_starts.advance(now)
            turns += 1
        rest = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert (0, True) == (len(past_starts), turns >= 50), "a turn that drops all keys at once stops the pool"
    assert each < 160, "bytes for each key beside its text"
    assert rest < 50_000


def test_starts_of_a_key_are_kept_until_none_of_them_counts():
    past_starts = PastStarts(16.0)
    past_starts.keep(b"a", [1.0, 3.0])
    past_starts.keep(b"b", [3.5])
    past_starts.keep(b"c", [2.0])  # its job ran longer
    past_starts.keep(b"d", [4.0])
    past_starts.advance(19.0)
    assert [1.0, 3.0] == list(past_starts.take(b"a"))
    assert [] == list(past_starts.take(b"a"))
    past_starts.advance(20.0)
    assert [[], [], [4.0]] == [list(past_starts.take(key)) for key in (b"b", b"c", b"d")]


def test_key_is_forgotten_although_one_of_its_throttled_jobs_was_cancelled():
    world = Bench((1, 1))
    first, second = world.submit(key=b"a"), world.submit(key=b"a")
    assert world.dispatcher.cancel(second, world.now)
    gc.disable()  # its limiter must not wait for that
    try:
        world.finish(first)
        assert [] == list(world.dispatcher._pending.limiters._of_key)
    finally:
        gc.enable()


def test_jobs_of_a_queue_that_is_not_declared_any_more_run_one_at_a_time():
    world = Bench((4, 4))
    jobs = [world.submit(queue="gone") for _ in range(3)]
    assert [0] == sent(world, jobs)
    world.finish(jobs[0])
    assert [0, 1] == sent(world, jobs)


def test_code_without_workers_does_not_keep_the_turn_that_it_cannot_take():
    world = bench((2, 2), limit=1)
    (running,) = submit(world)
    broken = world.add_generation()
    broken.ready = False
    jobs = [world.submit(queue="q", priority=9, generation=broken), *submit(world)]
    world.finish(running)
    assert [1] == sent(world, jobs)


def test_size_does_not_grow_when_it_shrinks():
    """Busy workers stay after a resize to fewer; giving up idle ones must not make their number the size again."""
    world = Bench((3, 3), worker_idle=1.0)
    busy = [world.submit() for _ in range(2)]
    world.dispatcher.resize(1, 1, world.now)
    world.turn(5.0)
    assert 1 == world.dispatcher.worker_slots.size
    for job in busy:
        world.finish(job)
    assert 1 == world.dispatcher.worker_slots.size
