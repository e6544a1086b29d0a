"""The size of a pool on made-up hosts, from one CPU to hundreds, and the words that say why."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procjobs.host import sizing
from procjobs.host.hostinfo import CpuFacts, MemoryFacts
from procjobs.host.sizing import Footprint, choose_reserve, choose_size, find_bound
from procjobs.shared.config import MAX_SLOTS

MIB, GIB = 1 << 20, 1 << 30


def host(logical, *, affinity=None, quota=None, threads=1):
    seen = logical if affinity is None else affinity
    return CpuFacts(logical, seen, () if quota is None else (quota,), max(1, seen // threads))


def memory(total, available=None, *, limit=None, used=None):
    return MemoryFacts(int(total), int(total if available is None else available), limit, used)


@pytest.mark.parametrize(
    ("cpus", "workers"),
    [
        pytest.param(host(1), 1, id="1 CPU"),
        pytest.param(host(2), 2, id="2 CPUs: one kept would be half of them"),
        pytest.param(host(3), 3, id="3 CPUs"),
        pytest.param(host(4), 4, id="4 CPUs: niceness is enough"),
        pytest.param(host(6), 6, id="6 CPUs"),
        pytest.param(host(8), 7, id="8 CPUs"),
        pytest.param(host(16), 14, id="16 CPUs"),
        pytest.param(host(32), 28, id="32 CPUs"),
        pytest.param(host(64), 56, id="64 CPUs"),
        pytest.param(host(128), 120, id="128 CPUs: no more than 8 kept"),
        pytest.param(host(1024), MAX_SLOTS, id="1024 CPUs: as many as a pool can have"),
        pytest.param(host(4, threads=2), 4, id="4 threads of 2 cores"),
        pytest.param(host(8, threads=2), 6, id="8 threads of 4 cores: a whole core"),
        pytest.param(host(16, threads=2), 14, id="16 threads of 8 cores"),
        pytest.param(host(24, threads=2), 20, id="24 threads of 12 cores: 3 are one and a half cores"),
        pytest.param(host(64, threads=4), 56, id="64 threads of 16 cores"),
        pytest.param(host(128, threads=8), 120, id="128 threads of 16 cores"),
        pytest.param(host(64, affinity=1), 1, id="pinned to one CPU"),
        pytest.param(host(64, affinity=8), 7, id="pinned to 8 CPUs"),
        pytest.param(host(64, affinity=8, threads=2), 6, id="pinned to 8 threads of 4 cores"),
        pytest.param(host(64, quota=0.1), 1, id="a tenth of a CPU"),
        pytest.param(host(64, quota=1.0), 1, id="a quota of one CPU"),
        pytest.param(host(64, quota=1.5), 1, id="of one and a half: two workers would stop the web server"),
        pytest.param(host(64, quota=2.0), 2, id="of 2"),
        pytest.param(host(64, quota=2.5), 2, id="of 2.5"),
        pytest.param(host(64, quota=3.0), 3, id="of 3"),
        pytest.param(host(64, quota=4.0), 3, id="of 4: niceness is no help against a quota"),
        pytest.param(host(64, quota=4.5), 4, id="of 4.5: what is rounded up is kept"),
        pytest.param(host(64, quota=8.0), 6, id="of 8"),
        pytest.param(host(64, quota=8.0, threads=2), 6, id="of 8, on cores with two threads: there are idle ones"),
        pytest.param(host(64, quota=32.0), 24, id="of 32"),
        pytest.param(host(4, quota=64.0), 4, id="a quota that adds no CPUs"),
        pytest.param(host(16, affinity=4, quota=8.0), 4, id="affinity below the quota"),
        pytest.param(CpuFacts(8, None, ()), 7, id="a system without affinity and without cores"),
        pytest.param(CpuFacts(0, 0, (0.0,)), 1, id="a host that tells nonsense"),
    ],
)
def test_cpus_and_reserve_decide_where_there_is_memory(cpus, workers):
    assert workers == choose_size(cpus, memory(4096 * GIB), nice=10).workers


@pytest.mark.parametrize(
    ("nice", "quota", "kept"),
    [(10, None, 1), (19, None, 1), (5, None, 1), (4, None, 2), (0, None, 2), (10, 8.0, 2), (0, 8.0, 2)],
)
def test_more_is_kept_where_niceness_does_not_help(nice, quota, kept):
    assert kept == choose_reserve(host(8, quota=quota), nice=nice)


@pytest.mark.parametrize("cpus", [host(1), host(8), host(64, quota=1.5), host(128)])
def test_nothing_is_kept_beside_a_private_pool(cpus):
    assert 0 == choose_size(cpus, nice=10, is_private=True).reserve


@pytest.mark.parametrize(("reserve", "workers"), [(0, 8), (1, 7), (7, 1), (8, 1), (500, 1)])
def test_reserve_that_is_given_holds_and_leaves_at_least_one_worker(reserve, workers):
    assert workers == choose_size(host(8), reserve=reserve, nice=10).workers


@pytest.mark.parametrize(
    ("facts", "footprint", "workers"),
    [
        pytest.param(memory(64 * GIB), None, 16, id="enough for all"),
        pytest.param(memory(64 * GIB), Footprint(4 * GIB, 0, 3), 14, id="57.6 GiB for 4 each"),
        pytest.param(memory(64 * GIB), Footprint(4 * GIB, 6 * GIB, 3), 12, id="less what all share, once"),
        pytest.param(memory(64 * GIB, 10 * GIB), Footprint(1 * GIB, 0, 3), 3, id="a host that is full"),
        pytest.param(memory(64 * GIB, limit=4 * GIB), Footprint(1 * GIB, 0, 3), 3, id="a container's limit"),
        pytest.param(memory(64 * GIB, limit=4 * GIB, used=3 * GIB), Footprint(1 * GIB, 0, 3), 1, id="that is full"),
        pytest.param(memory(2 * GIB, limit=64 * GIB), Footprint(1 * GIB, 0, 3), 1, id="a limit above what there is"),
        pytest.param(memory(512 * MIB), None, 7, id="half a GiB, and nothing known"),
        pytest.param(memory(64 * MIB), None, 1, id="very little"),
        pytest.param(memory(0), None, 1, id="none"),
        pytest.param(memory(64 * GIB), Footprint(0, 0, 1), 16, id="a worker that needed nothing"),
    ],
)
def test_memory_bounds_the_workers(facts, footprint, workers):
    assert workers == choose_size(host(16), facts, footprint, reserve=0, nice=10).workers


def test_memory_that_the_pool_has_already_is_its_own():
    full = memory(16 * GIB, 2 * GIB)
    sizes = [
        choose_size(host(8), full, Footprint(GIB, 0, 1), reserve=0, nice=10, held_bytes=held) for held in (0, 5 * GIB)
    ]
    assert [1, 5] == [size.workers for size in sizes]


@pytest.mark.parametrize(
    ("cpus", "facts", "more", "words"),
    [
        (host(64, quota=8.0), memory(16 * GIB, 14 * GIB), {"footprint": Footprint(int(1.1 * GIB), 0, 1)},
         "6 workers: 8 CPUs usable by the container's quota, 2 kept for the web server; memory would allow 11"),
        (host(64, quota=1.5), None, {},
         "1 worker: 2 CPUs usable by the container's quota of 1.5, 1 kept for the web server"),
        (host(64, affinity=4), None, {}, "4 workers: 4 CPUs usable by the affinity of this process"),
        (host(2), None, {}, "2 workers: 2 CPUs"),
        (host(1), None, {}, "1 worker: 1 CPU"),
        (host(8), memory(4 * GIB), {"footprint": Footprint(GIB)},
         "3 workers: 8 CPUs, 1 kept for the web server; memory allows no more"),
        (host(8), memory(GIB), {"footprint": Footprint(GIB)},
         "1 worker: 8 CPUs, 1 kept for the web server; memory would allow none, but one there must be"),
        (host(8), memory(4 * GIB), {"reserve": 8, "footprint": Footprint(GIB)},
         "1 worker: 8 CPUs, 8 kept for the web server, but one worker there must be; memory would allow 3"),
        (host(8), memory(4 * GIB), {"reserve": 5, "footprint": Footprint(GIB)},
         "3 workers: 8 CPUs, 5 kept for the web server; memory would allow 3"),
        (host(1024), None, {"reserve": 0}, "512 workers: 1024 CPUs; a pool has no more"),
    ],
)  # fmt: skip
def test_size_is_explained_in_words(cpus, facts, more, words):
    assert words == choose_size(cpus, facts, nice=10, **more).explain()


counts = st.integers(min_value=-1, max_value=2048)
sizes = st.integers(min_value=0, max_value=2**45)


@given(
    cpus=st.builds(
        CpuFacts,
        counts,
        st.none() | counts,
        st.lists(st.floats(min_value=0, max_value=1e6, allow_nan=False), max_size=3).map(tuple),
        st.none() | counts,
    ),
    facts=st.none() | st.builds(MemoryFacts, sizes, sizes, st.none() | sizes, st.none() | sizes),
    footprint=st.none() | st.builds(Footprint, sizes, sizes, counts),
    reserve=st.just("auto") | st.integers(min_value=0, max_value=MAX_SLOTS),
    nice=st.integers(min_value=0, max_value=19),
    is_private=st.booleans(),
)
def test_there_is_always_a_worker_never_more_than_cpus_and_always_a_sentence(
    cpus, facts, footprint, reserve, nice, is_private
):
    size = choose_size(cpus, facts, footprint, reserve=reserve, nice=nice, is_private=is_private)
    assert 1 <= size.workers <= min(size.cpus, MAX_SLOTS)
    assert size.explain().startswith(f"{size.workers} worker")
    assert 0 <= size.reserve
    assert reserve != "auto" or size.reserve < size.cpus


@pytest.mark.parametrize(
    ("cpus", "bound"),
    [
        (host(8), ("host", 8)),
        (host(8, quota=8.0), ("quota", 8.0)),
        (host(8, affinity=4), ("affinity", 4)),
        (host(8, affinity=4, quota=3.5), ("quota", 3.5)),
        (host(8, affinity=4, quota=4.5), ("affinity", 4)),
    ],
)
def test_bound_is_what_leaves_the_fewest_cpus(cpus, bound):
    assert bound == find_bound(cpus)


def test_examples_in_the_docstrings_hold():
    results = doctest.testmod(sizing)
    assert results.attempted > 0
    assert 0 == results.failed
