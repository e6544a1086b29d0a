"""Shares of CPUs and numbers of threads, by made-up facts."""

from __future__ import annotations

import doctest

import pytest

from procjobs.errors import ConfigurationError
from procjobs.host import cpus
from procjobs.host.cpus import FOLLOW_OPENMP, ON_THEIR_OWN, OPENMP, check_usable, cpus_of_slot, thread_variables
from procjobs.shared.config import PoolSettings, check_affinity, check_threads

ALL = {OPENMP, *FOLLOW_OPENMP, *ON_THEIR_OWN}


def test_examples_in_the_docstrings_hold():
    results = doctest.testmod(cpus)
    assert (0, True) == (results.failed, results.attempted > 0)


@pytest.mark.parametrize(
    ("threads", "workers", "count", "expected"),
    [("auto", 2, 2, "1"), ("auto", 2, 8, "4"), ("auto", 3, 8, "2"), ("auto", 9, 8, "1"), (5, 2, 2, "5")],
)
def test_every_library_gets_the_number(threads, workers, count, expected):
    assert dict.fromkeys(ALL, expected) == thread_variables(threads, workers=workers, cpus=count, environment={})


def test_none_leaves_the_environment_alone():
    assert {} == thread_variables(None, workers=2, cpus=8, environment={})


def test_what_is_set_in_the_environment_wins_over_auto_and_not_over_a_number():
    environment = {"MKL_NUM_THREADS": "7", "RAYON_NUM_THREADS": ""}
    found = thread_variables("auto", workers=2, cpus=2, environment=environment)
    assert ALL - {"MKL_NUM_THREADS"} == found.keys()
    assert "3" == thread_variables(3, workers=2, cpus=2, environment=environment)["MKL_NUM_THREADS"]


def test_openmp_set_by_hand_is_meant_for_those_that_follow_it_too():
    found = thread_variables("auto", workers=2, cpus=2, environment={OPENMP: "4"})
    assert set(ON_THEIR_OWN) == found.keys()


@pytest.mark.parametrize(
    ("workers", "usable", "expected"),
    [
        pytest.param(2, [0, 1], [[0], [1]], id="one for each"),
        pytest.param(2, [0, 1, 4, 5, 6], [[0, 1], [4, 5, 6]], id="a share for each"),
        pytest.param(5, [2, 3], [[2], [3], [2], [3], [2]], id="more workers than CPUs take turns"),
        pytest.param(1, [2, 3], [[2, 3]], id="one has all"),
    ],
)
def test_spread(workers, usable, expected):
    assert expected == [cpus_of_slot(slot, "spread", workers=workers, usable=usable) for slot in range(workers)]


@pytest.mark.parametrize("workers", range(1, 20))
def test_spread_uses_every_cpu_as_evenly_as_can_be(workers):
    for count in range(1, 20):
        shares = [cpus_of_slot(slot, "spread", workers=workers, usable=range(count)) for slot in range(workers)]
        users = [sum(cpu in share for share in shares) for cpu in range(count)]
        assert max(users) - min(users) <= 1
        assert min(users) >= 1
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_worker_whose_slot_has_gone_has_a_share_too():
    assert [1] == cpus_of_slot(5, "spread", workers=2, usable=[0, 1])


def test_cpus_by_number_are_those_that_are_usable():
    assert [] == cpus_of_slot(0, None, workers=2, usable=[0, 1])
    assert [1, 3] == cpus_of_slot(0, (1, 3, 9), workers=2, usable=[0, 1, 2, 3])
    assert [] == cpus_of_slot(0, (9,), workers=2, usable=[0, 1]), "better on all than not at all"


def test_cpu_that_is_not_usable_is_refused_with_those_that_are():
    with pytest.raises(ConfigurationError, match="may not use CPU 7, 9; it may use 0, 1"):
        check_usable((0, 7, 9), [0, 1])
    check_usable((0, 1), [0, 1])
    check_usable("spread", [0])


@pytest.mark.parametrize("value", ["all", "0", 3, [], [1.5], [-1], [True], [None]])
def test_affinity_that_makes_no_sense_is_refused(value):
    with pytest.raises(ConfigurationError, match="affinity"):
        check_affinity(value)


@pytest.mark.parametrize("value", ["many", 0, -1, 1.5, True, 5000])
def test_number_of_threads_that_makes_no_sense_is_refused(value):
    with pytest.raises(ConfigurationError, match="threads"):
        check_threads(value)


@pytest.mark.parametrize("affinity", [None, "spread", (0, 1)])
@pytest.mark.parametrize("threads", [None, "auto", 3])
def test_settings_come_back_from_json(affinity, threads):
    import json

    settings = PoolSettings((1, 2), affinity=affinity, threads=threads).validated()
    assert settings == PoolSettings.from_json(json.loads(json.dumps(settings.to_json())))


def test_order_of_cpus_and_their_repetition_mean_nothing():
    assert (0, 2) == check_affinity([2, 0, 2])
