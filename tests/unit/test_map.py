"""How many items a job of `map` takes, from how long the ones before it took."""

from __future__ import annotations

import itertools

from procjobs.client.map import ChunkSizer, _gather


def test_chunks_do_not_grow_before_one_was_run():
    sizer = ChunkSizer(2, None)
    assert [1] * 20 == [sizer.next_size() for _ in range(20)]


def test_chunks_of_quick_items_grow_step_by_step():
    sizer = ChunkSizer(2, None)
    sizes = []
    for _ in range(6):
        sizes.append(sizer.next_size())
        sizer.observe_run(sizes[-1], sizes[-1] * 1e-6)
    assert [1, 32, 1024, 10_000, 10_000, 10_000] == sizes


def test_chunks_of_slow_items_stay_single():
    sizer = ChunkSizer(2, None)
    sizer.observe_run(1, 0.5)
    assert 1 == sizer.next_size()


def test_an_early_small_chunk_does_not_count_twice():
    sizer = ChunkSizer(2, None)
    sizer.observe_run(1, 1e-6)
    sizer.observe_run(1, 1e-6)
    assert 32 == sizer.next_size()


def test_items_that_become_slower_shrink_their_chunks():
    sizer = ChunkSizer(2, None)
    sizer.observe_run(1, 1e-6)
    sizer.observe_run(32, 0.32)
    assert 1 == sizer.next_size()


def test_items_that_are_slow_to_pickle_travel_in_small_numbers():
    sizer = ChunkSizer(2, None)
    sizer.observe_run(1, 1e-6)
    sizer.observe_submission(32, 0.16)
    assert 2 == sizer.next_size()


def test_chunks_of_a_known_number_of_items_shrink_towards_the_end():
    sizer = ChunkSizer(2, 40_000)
    for size in (1, 256):
        sizer.observe_run(size, size * 1e-6)
    sizes = []
    while sum(sizes) < 40_000:
        sizes.append(sizer.next_size())
        sizer.take(sizes[-1])
    assert (10_000, 7500, 5625) == tuple(sizes[:3])
    assert 2500 == min(sizes)
    assert all(earlier >= later for earlier, later in itertools.pairwise(sizes))


def test_items_that_are_slow_to_come_do_not_hold_up_a_job(monkeypatch):
    now = itertools.count(0, 0.004)
    monkeypatch.setattr("procjobs.client.map.monotonic", lambda: next(now))
    columns = _gather([iter(range(1000)), iter(range(1000))], 1000)
    assert [list(range(5))] * 2 == columns


def test_columns_end_where_the_shortest_does():
    assert [[1, 2, 3], [4, 5]] == _gather([iter([1, 2, 3]), iter([4, 5])], 100)
