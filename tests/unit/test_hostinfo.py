"""The rules on made-up facts, and the readers on made-up hosts: trees of files below `tmp_path`."""

import doctest
import os

import psutil
import pytest

from procjobs.host import hostinfo
from procjobs.host.hostinfo import CpuFacts, MemoryFacts

GIB = 1 << 30
V1_UNLIMITED_4K_PAGES = "9223372036854771712\n"
V1_UNLIMITED_64K_PAGES = "9223372036854710272\n"

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_CPU_MOUNT = "33 25 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
V1_MEMORY_MOUNT = "35 25 0:31 / /sys/fs/cgroup/memory rw,nosuid shared:11 - cgroup cgroup rw,memory\n"
HYBRID_V2_MOUNT = "31 25 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n"


@pytest.fixture
def host(tmp_path):
    """Return a function that writes the files of a made-up host and returns its root directory."""

    def write(own_cgroups, mounts, files):
        for name, text in {"proc/self/cgroup": own_cgroups, "proc/self/mountinfo": mounts, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return str(tmp_path)

    return write


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param(CpuFacts(8, None, ()), 8, id="nothing else known: every CPU of the host"),
        pytest.param(CpuFacts(8, 3, ()), 3, id="affinity is smaller"),
        pytest.param(CpuFacts(8, 8, (2.0,)), 2, id="a whole quota"),
        pytest.param(CpuFacts(8, 8, (1.5,)), 2, id="a fraction of a CPU counts as one"),
        pytest.param(CpuFacts(8, 8, (2.001,)), 3, id="however small it is"),
        pytest.param(CpuFacts(8, 8, (0.25,)), 1, id="less than one CPU"),
        pytest.param(CpuFacts(8, 8, (6.0, 2.5, 4.0)), 3, id="the smallest quota of the path, wherever it stands"),
        pytest.param(CpuFacts(8, 4, (64.0,)), 4, id="a quota adds no CPUs"),
        pytest.param(CpuFacts(2, 4, (3.0,)), 2, id="nor does an affinity"),
        pytest.param(CpuFacts(0, 0, (0.0,)), 1, id="never none"),
    ],
)
def test_usable_cpus_are_the_smallest_bound_with_quotas_rounded_up(facts, expected):
    assert expected == hostinfo.usable_cpus(facts)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param(MemoryFacts(16 * GIB, 10 * GIB, None, None), 10 * GIB, id="no group: what the host has"),
        pytest.param(MemoryFacts(16 * GIB, 10 * GIB, 4 * GIB, 1 * GIB), 3 * GIB, id="what is left in the group"),
        pytest.param(MemoryFacts(16 * GIB, 2 * GIB, 8 * GIB, 1 * GIB), 2 * GIB, id="a full host, a roomy group"),
        pytest.param(MemoryFacts(16 * GIB, 10 * GIB, 4 * GIB, None), 4 * GIB, id="a group that hides its use"),
        pytest.param(MemoryFacts(16 * GIB, 10 * GIB, 1 * GIB, 2 * GIB), 0, id="never negative"),
    ],
)
def test_usable_memory_is_what_is_left_in_the_host_and_in_the_group(facts, expected):
    assert expected == hostinfo.usable_memory_bytes(facts)


def test_v2_quotas_are_read_on_the_whole_path_own_group_first(host):
    root = host(
        "0::/kube/pod/web\n",
        V2_MOUNT,
        {
            "sys/fs/cgroup/kube/pod/web/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/kube/pod/cpu.max": "75000 50000\n",
            "sys/fs/cgroup/kube/cpu.max": "max 100000\n",
            "sys/fs/cgroup/cpu.max": "800000 100000\n",
        },
    )
    assert (4.0, 1.5, 8.0) == hostinfo.read_cpu_facts(root).cgroup_quotas


def test_v2_groups_of_others_are_not_read(host):
    files = {"sys/fs/cgroup/web/cpu.max": "max 100000\n", "sys/fs/cgroup/web/child/cpu.max": "100000 100000\n"}
    assert () == hostinfo.read_cpu_facts(host("0::/web\n", V2_MOUNT, files)).cgroup_quotas


def test_v1_quotas_are_read_on_the_whole_path_of_a_mount_shared_by_two_controllers(host):
    root = host(
        "12:memory:/elsewhere\n4:cpu,cpuacct:/batch/web\n1:name=systemd:/init.scope\n",
        V1_MEMORY_MOUNT + V1_CPU_MOUNT,
        {
            "sys/fs/cgroup/cpu,cpuacct/batch/web/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/batch/web/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/batch/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/batch/cpu.cfs_period_us": "100000\n",
        },
    )
    assert (2.5,) == hostinfo.read_cpu_facts(root).cgroup_quotas


def test_hybrid_host_has_its_cpu_quota_in_v1(host):
    root = host(
        "4:cpu,cpuacct:/web\n0::/web\n",
        V1_CPU_MOUNT + HYBRID_V2_MOUNT,
        {
            "sys/fs/cgroup/cpu,cpuacct/web/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/web/cpu.cfs_period_us": "50000\n",
            "sys/fs/cgroup/unified/web/cgroup.procs": "1\n",
        },
    )
    assert (2.0,) == hostinfo.read_cpu_facts(root).cgroup_quotas


@pytest.mark.parametrize("path", ["/docker/4f2a", "/../4f2a"], ids=["name on the host", "outside of the namespace"])
def test_container_whose_path_is_not_under_the_mount_has_the_quota_of_the_mounts_root(host, path):
    files = {"sys/fs/cgroup/cpu.max": "150000 100000\n", "sys/fs/4f2a/cpu.max": "900000 100000\n"}
    assert (1.5,) == hostinfo.read_cpu_facts(host(f"0::{path}\n", V2_MOUNT, files)).cgroup_quotas


def test_half_of_a_path_that_is_not_under_the_mount_is_not_mistaken_for_our_group(host):
    files = {
        "sys/fs/cgroup/cpu.max": "400000 100000\n",
        "sys/fs/cgroup/system.slice/cpu.max": "100000 100000\n",  # the container's own systemd made it
    }
    root = host("0::/system.slice/docker-4f2a.scope\n", V2_MOUNT, files)
    assert (4.0,) == hostinfo.read_cpu_facts(root).cgroup_quotas


def test_container_whose_group_is_the_root_of_the_mount_finds_groups_below_it(host):
    root = host(
        "0::/docker/4f2a/web\n",
        "30 23 0:26 /docker/4f2a /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
        {
            "sys/fs/cgroup/web/cpu.max": "100000 100000\n",
            "sys/fs/cgroup/cpu.max": "300000 100000\n",
        },
    )
    assert (1.0, 3.0) == hostinfo.read_cpu_facts(root).cgroup_quotas


def test_mount_that_shows_the_group_is_preferred_to_one_that_shows_another_container(host):
    root = host(
        "0::/web\n",
        "90 23 0:26 /docker/4f2a /mnt/other rw - cgroup2 cgroup2 rw\n" + V2_MOUNT,
        {
            "mnt/other/cpu.max": "100000 100000\n",
            "sys/fs/cgroup/web/cpu.max": "300000 100000\n",
        },
    )
    assert (3.0,) == hostinfo.read_cpu_facts(root).cgroup_quotas


def test_names_with_blanks_colons_and_line_separators_are_found(host):
    root = host(
        "0::/a b:c\u2028d\n",
        "30 23 0:26 / /my\\040cgroups\\134x rw - cgroup2 cgroup2 rw\n",
        {"my cgroups\\x/a b:c\u2028d/cpu.max": "200000 100000\n"},
    )
    assert (2.0,) == hostinfo.read_cpu_facts(root).cgroup_quotas


@pytest.mark.parametrize("text", ["", "max", "max 100000\n", "100000\n", "100000 0\n", "0 100000\n", "many few\n"])
def test_a_cpu_max_without_a_quota_is_none(host, text):
    root = host("0::/\n", V2_MOUNT, {"sys/fs/cgroup/cpu.max": text})
    assert () == hostinfo.read_cpu_facts(root).cgroup_quotas


@pytest.mark.parametrize("mounts", ["", V2_MOUNT, "torn line - cgroup2\n"])
def test_host_without_cgroup_files_has_no_quotas(host, mounts):
    assert () == hostinfo.read_cpu_facts(host("0::/web\nnonsense\n", mounts, {})).cgroup_quotas


def test_host_without_proc_and_sys_still_has_cpus(tmp_path):
    facts = hostinfo.read_cpu_facts(str(tmp_path))
    assert () == facts.cgroup_quotas
    assert 1 <= hostinfo.usable_cpus(facts) <= facts.logical


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity of processes")
def test_affinity_is_that_of_this_process(tmp_path):
    assert len(os.sched_getaffinity(0)) == hostinfo.read_cpu_facts(str(tmp_path)).affinity


def siblings(*lists):
    return {f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": text for cpu, text in enumerate(lists)}


@pytest.mark.parametrize(
    ("lists", "cores"),
    [
        pytest.param(["0,2\n", "1,3\n", "0,2\n", "1,3\n"], 2, id="two threads each"),
        pytest.param(["0\n", "1\n", "2\n", "3\n"], 4, id="one each"),
        pytest.param(["0-3\n"] * 4, 1, id="four threads of one core"),
        pytest.param(["0,2\n", "1,3\n", "0,2\n"], None, id="a CPU that does not tell"),
        pytest.param([], None, id="a host that does not tell"),
    ],
)
def test_cores_are_counted_by_the_siblings_of_their_threads(host, lists, cores):
    assert cores == hostinfo._count_cores(host("", "", siblings(*lists)), range(4))


def test_cores_are_those_of_the_affinity(host):
    root = host("", "", siblings("0,1\n", "0,1\n", "2,3\n", "2,3\n"))
    assert [1, 2] == [hostinfo._count_cores(root, cpus) for cpus in ({2, 3}, {1, 2})]


def test_this_host_has_a_cpu_and_some_memory():
    facts = hostinfo.read_cpu_facts()
    assert 1 <= hostinfo.usable_cpus(facts) <= facts.logical
    assert facts.cores is None or 1 <= facts.cores <= facts.logical
    assert hostinfo.usable_memory_bytes(hostinfo.read_memory_facts()) > 0


def test_memory_of_the_host_is_what_psutil_says():
    facts, memory = hostinfo.read_memory_facts(), psutil.virtual_memory()
    assert memory.total == facts.total_bytes
    assert pytest.approx(memory.available, rel=0.3) == facts.available_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MemTotal:    2048 kB\nMemFree:  1 kB\nMemAvailable:    1024 kB\n", (2 << 20, 1 << 20)),
        pytest.param("MemTotal: 2048 kB\nMemAvailable: 9999 kB\n", (2 << 20, 2 << 20), id="a container of its own"),
    ],
)
def test_memory_is_what_the_kernel_takes_for_available(host, text, expected):
    assert expected == hostinfo.read_memory_facts(host("", "", {"proc/meminfo": text}))[:2]


@pytest.mark.parametrize("files", [{}, {"proc/meminfo": "MemTotal: many kB\nMemAvailable:\n"}, {"proc/meminfo": ""}])
def test_memory_of_a_host_without_proc_comes_from_the_kernel(host, files):
    facts = hostinfo.read_memory_facts(host("", "", files))
    assert pytest.approx(psutil.virtual_memory().total, rel=0.01) == facts.total_bytes
    assert 0 < facts.available_bytes <= facts.total_bytes
    assert (None, None) == (facts.cgroup_limit_bytes, facts.cgroup_used_bytes)


def test_v2_memory_limit_is_the_smallest_of_the_path_with_the_use_of_the_same_group(host):
    root = host(
        "0::/pod/web\n",
        V2_MOUNT,
        {
            "sys/fs/cgroup/pod/web/memory.max": "max\n",
            "sys/fs/cgroup/pod/web/memory.current": "1000\n",
            "sys/fs/cgroup/pod/memory.max": "5000\n",
            "sys/fs/cgroup/pod/memory.current": "2000\n",
            "sys/fs/cgroup/memory.max": "9000\n",
            "sys/fs/cgroup/memory.current": "3000\n",
        },
    )
    assert (5000, 2000) == hostinfo.read_memory_facts(root)[2:]


def test_fullest_of_the_groups_that_share_the_smallest_limit_counts(host):
    root = host(
        "0::/pod/web\n",
        V2_MOUNT,
        {
            "sys/fs/cgroup/pod/web/memory.max": "5000\n",
            "sys/fs/cgroup/pod/web/memory.current": "1000\n",
            "sys/fs/cgroup/pod/memory.max": "5000\n",
            "sys/fs/cgroup/pod/memory.current": "4000\n",
        },
    )
    assert (5000, 4000) == hostinfo.read_memory_facts(root)[2:]


@pytest.mark.parametrize("unlimited", [V1_UNLIMITED_4K_PAGES, V1_UNLIMITED_64K_PAGES])
def test_v1_limit_that_means_unlimited_is_none(host, unlimited):
    files = {
        "sys/fs/cgroup/memory/web/memory.limit_in_bytes": unlimited,
        "sys/fs/cgroup/memory/web/memory.usage_in_bytes": "1000\n",
    }
    root = host("12:memory:/web\n", V1_MEMORY_MOUNT, files)
    assert (None, None) == hostinfo.read_memory_facts(root)[2:]


@pytest.mark.parametrize(
    ("stat", "expected_used"),
    [
        pytest.param("cache 700\ninactive_file 1\ntotal_inactive_file 600\n", 1400, id="with the groups below"),
        pytest.param("total_inactive_file 2500\n", 0, id="counted a moment later than the use"),
        pytest.param("total_inactive_file\n", 2000, id="torn"),
    ],
)
def test_v1_file_cache_that_can_be_dropped_is_not_used_memory(host, stat, expected_used):
    files = {
        "sys/fs/cgroup/memory/web/memory.limit_in_bytes": "5000\n",
        "sys/fs/cgroup/memory/web/memory.usage_in_bytes": "2000\n",
        "sys/fs/cgroup/memory/web/memory.stat": stat,
    }
    root = host("12:memory:/web\n", V1_MEMORY_MOUNT, files)
    assert (5000, expected_used) == hostinfo.read_memory_facts(root)[2:]


def test_v2_file_cache_that_can_be_dropped_is_not_used_memory(host):
    files = {
        "sys/fs/cgroup/web/memory.max": "5000\n",
        "sys/fs/cgroup/web/memory.current": "2000\n",
        "sys/fs/cgroup/web/memory.stat": "anon 900\nfile 800\ninactive_file 600\n",
    }
    assert (5000, 1400) == hostinfo.read_memory_facts(host("0::/web\n", V2_MOUNT, files))[2:]


def test_limit_is_known_where_the_use_is_not(host):
    root = host("0::/web\n", V2_MOUNT, {"sys/fs/cgroup/web/memory.max": "5000\n"})
    assert (5000, None) == hostinfo.read_memory_facts(root)[2:]


def test_examples_in_the_docstrings_hold():
    results = doctest.testmod(hostinfo)
    assert results.attempted > 0
    assert 0 == results.failed
