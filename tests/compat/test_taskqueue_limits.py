"""The ladder of retries, and the bucket of tokens against every window that there is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procjobs.compat.taskqueue.sender.backoff import backoff, is_given_up
from procjobs.compat.taskqueue.sender.buckets import SLOWEST, Bucket, Throttle
from procjobs.compat.taskqueue.settings.queues import RetryParameters

SECOND = 1_000_000


@pytest.mark.parametrize(
    ("least", "most", "doublings", "expected"),
    [
        (10, 300, 3, [10, 20, 40, 80, 160, 240, 300, 300]),
        (10, 200, 0, [10, 20, 30, 40, 50, 60, 70, 80]),
        (1, 1000, 16, [1, 2, 4, 8, 16, 32, 64, 128]),
        (5, 5, 3, [5] * 8),
        (0, 100, 3, [0] * 8),
    ],
)
def test_pauses_double_then_grow_evenly_then_stay(least, most, doublings, expected):
    retry = RetryParameters(least, most, doublings)
    assert expected == [backoff(retry, failures) for failures in range(1, 9)]


def test_task_that_has_failed_ever_so_often_waits_for_the_longest_pause():
    assert 3600 == backoff(RetryParameters(max_doublings=10**9), 10**7)


@pytest.mark.parametrize(
    ("limits", "failures", "age", "expected"),
    [
        ((None, None), 10**6, 10**9, False),
        ((0, None), 1, 0, True),
        ((2, None), 2, 10**9, False),
        ((2, None), 3, 0, True),
        ((None, 60), 10**6, 60, False),
        ((None, 60), 1, 60.1, True),
        ((2, 60), 3, 59, False),
        ((2, 60), 2, 61, False),
        ((2, 60), 3, 61, True),
    ],
)
def test_task_is_given_up_when_every_limit_that_it_has_is_passed(limits, failures, age, expected):
    count, oldest = limits
    assert expected is is_given_up(RetryParameters(task_retry_limit=count, task_age_limit=oldest), failures, age)


# Each step waits, claims at most so many, and has so many requests leave: the oldest, and whether they arrive at their end.
steps = st.lists(
    st.tuples(st.integers(0, SECOND), st.integers(0, 3), st.integers(0, 3), st.booleans()), min_size=2, max_size=15
)


@settings(max_examples=300)
@given(rate=st.floats(0.5, 10), size=st.integers(1, 3), steps=steps)
def test_no_window_has_more_starts_than_the_bucket_and_its_rate_allow(rate, size, steps):
    now, bucket = 0, Bucket(size, rate, size, 0)
    unsent, arrivals = [], []
    for pause, claims, leaving, is_late in steps:
        now += pause
        claims = min(claims, bucket.available(now))  # noqa: PLW2901
        bucket.reserve(claims)
        unsent += [now] * claims
        for claimed in unsent[:leaving]:
            arrivals.append(now if is_late else claimed)  # the earliest and the latest time that there can be
            bucket.spend(now)
        del unsent[:leaving]
    arrivals.sort()
    for first, begin in enumerate(arrivals):
        for last in range(first, len(arrivals)):
            window = (arrivals[last] - begin) / SECOND
            assert last - first + 1 <= size + rate * window + 1e-6


@given(rate=st.floats(0.2, 500), size=st.integers(1, 100))
def test_starts_are_as_many_as_the_rate_allows(rate, size):
    now, bucket, starts = 0, Bucket(size, rate, size, 0), 0
    while starts < size + 50:
        now = bucket.next_at(now)
        count = bucket.available(now)
        starts += count
        bucket.reserve(count)
        for _ in range(count):
            bucket.spend(now)
    assert now / SECOND <= 50 / rate + 0.001


def test_rate_of_zero_starts_nothing_and_names_no_moment():
    bucket = Bucket(5, 0.0, 5, 0)
    assert (0, None) == (bucket.available(10 * SECOND), bucket.next_at(10 * SECOND))


def test_tokens_that_all_wait_for_their_requests_to_leave_name_no_moment():
    bucket = Bucket(1, 1000.0, 1, 0)
    bucket.reserve(1)
    assert bucket.next_at(SECOND) is None
    bucket.spend(SECOND)
    assert SECOND + 1000 == bucket.next_at(SECOND)


def test_smaller_bucket_loses_what_it_cannot_hold():
    bucket = Bucket(10, 1.0, 10, 0)
    bucket.set_limits(1.0, 2, 0)
    assert 2 == bucket.available(0)


def test_burst_of_refusals_halves_the_rate_once_and_later_ones_again():
    throttle = Throttle(1.0, 0)
    for _ in range(10):
        throttle.slow_down(0)
    assert 0.5 == throttle.share
    throttle.slow_down(SECOND)
    assert 0.3 == pytest.approx(throttle.share)


def test_rate_is_never_halved_away_and_comes_back_with_time_alone():
    throttle = Throttle(SLOWEST, 0)
    throttle.slow_down(0)
    assert SLOWEST == throttle.share
    throttle.recover(11 * SECOND)
    assert 1.0 == throttle.share
