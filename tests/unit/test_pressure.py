"""Loads from two readings, and the readers on made-up hosts: trees of files below `tmp_path`."""

from __future__ import annotations

import doctest
import os

import pytest

from procjobs.host import pressure
from procjobs.host.pressure import Counters, load_between, read_counters

from .test_hostinfo import V1_CPU_MOUNT, V2_MOUNT, host

__all__ = ["host"]

TICK = os.sysconf("SC_CLK_TCK")
CPU = min(os.sched_getaffinity(0))
PSI = "some avg10=1.00 avg60=1.00 avg300=1.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
NOTHING = Counters(0.0, 0.0, 0.0, (), (), ())


def test_examples_in_the_docstrings_hold():
    results = doctest.testmod(pressure)
    assert (0, True) == (results.failed, results.attempted > 0)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(NOTHING, NOTHING, (None, None, None), id="no time has passed"),
        pytest.param(NOTHING, NOTHING._replace(at=1.0), (None, None, None), id="nothing is known"),
        pytest.param(
            NOTHING._replace(groups=((5.0, 2.0),)),
            Counters(2.0, 1.0, 4.0, ((8.0, 2.0),), (), ()),
            (0.75, None, None),
            id="the quota is used more than the CPUs",
        ),
        pytest.param(
            Counters(0.0, 0.0, 0.0, (), (1.0, 5.0), (0.0, 1.0)),
            Counters(2.0, 1.0, 4.0, (), (1.2, 6.0), (0.0, 1.1)),
            (0.25, 0.5, pytest.approx(0.05)),
            id="the group waits more than the host",
        ),
        pytest.param(
            Counters(0.0, 0.0, 0.0, ((9.0, 1.0),), (1.0, 5.0), (0.0,)),
            Counters(2.0, 1.0, 4.0, (), (2.0,), (0.5,)),
            (0.25, None, 0.25),
            id="moved to another group in between: what cannot be compared is not known",
        ),
        pytest.param(
            Counters(0.0, 3.0, 4.0, (), (3.0,), ()), Counters(1.0, 9.0, 6.0, (), (1.0,), ()), (1.0, 0.0, None),
            id="counters that do not fit together stay parts of one",
        ),
    ],
)  # fmt: skip
def test_load_between(before, after, expected):
    assert expected == load_between(before, after)


def test_busy_time_is_that_of_the_usable_cpus_without_idle_and_iowait(host):
    other = max(os.sched_getaffinity(0)) + 1
    stat = (
        f"cpu  9 9 9 9 9 9 9 9 9 9\ncpu{CPU} {3 * TICK} {TICK} {TICK} {10 * TICK} {5 * TICK} 0 0 {TICK} 0 0\n"
        f"cpu{other} {99 * TICK} 0 0 0 0 0 0 0 0 0\nintr 1 2 3\ncpu_like nonsense\n"
    )
    counters = read_counters(host("0::/\n", "", {"proc/stat": stat}))
    assert (6.0, 21.0) == counters[1:3]


def test_pressure_is_that_of_the_host_and_of_each_group(host):
    files = {
        "proc/pressure/cpu": PSI.format(3_000_000),
        "proc/pressure/memory": PSI.format(500_000),
        "sys/fs/cgroup/web/cpu.pressure": PSI.format(2_000_000),
        "sys/fs/cgroup/web/memory.pressure": "full total=1\nnonsense\n",
    }
    counters = read_counters(host("0::/web\n", V2_MOUNT, files))
    assert ((3.0, 2.0), (0.5,)) == counters[4:]


def test_use_of_a_quota_is_read_beside_it(host):
    files = {
        "sys/fs/cgroup/web/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/web/cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
        "sys/fs/cgroup/cpu.max": "max 100000\n",
        "sys/fs/cgroup/cpu.stat": "usage_usec 9500000\n",
    }
    assert ((2.5, 1.5),) == read_counters(host("0::/web\n", V2_MOUNT, files)).groups


def test_use_of_a_v1_quota_is_counted_in_nanoseconds(host):
    files = {
        "sys/fs/cgroup/cpu,cpuacct/web/cpu.cfs_quota_us": "200000\n",
        "sys/fs/cgroup/cpu,cpuacct/web/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/web/cpu.stat": "nr_periods 0\n",
        "sys/fs/cgroup/cpu,cpuacct/web/cpuacct.usage": "1500000000\n",
    }
    assert ((1.5, 2.0),) == read_counters(host("4:cpu,cpuacct:/web\n", V1_CPU_MOUNT, files)).groups


def test_host_that_tells_nothing_has_no_facts(tmp_path):
    counters = read_counters(str(tmp_path))
    assert (0.0, 0.0, (), (), ()) == counters[1:]
    assert (None, None, None) == load_between(counters, counters._replace(at=counters.at + 1))


def test_this_host_tells_how_busy_it_is():
    before = after = read_counters()
    while after.cpus_passed == before.cpus_passed:
        after = read_counters()
    assert 0.0 <= load_between(before, after).cpu_used <= 1.0
