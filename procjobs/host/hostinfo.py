"""How many CPUs and how much memory this process can really use.

The rules (`usable_cpus`, `usable_memory_bytes`) are functions of facts given to them; `procjobs.host.sizing` makes the size
of a pool of them. The readers (`read_cpu_facts`, `read_memory_facts`) fetch the facts of this host and decide nothing. Where
a host does not tell a fact (no /proc, no cgroups, not Linux), it is missing, never an error.
"""

import math
import os
from collections.abc import Iterable
from typing import NamedTuple

# A v1 group without a limit shows the largest signed 64-bit number, rounded down to a page, whose size differs.
_V1_UNLIMITED_BYTES = 1 << 62

# The name of the v2 hierarchy in /proc/self/cgroup, where a v1 line has its controllers.
_UNIFIED = ""


class CpuFacts(NamedTuple):
    """The bounds on the CPUs of this process: the smallest one holds.

    `logical` counts the CPUs of the host, `affinity` those which the scheduler may use for this process (None: the
    system has no such notion). `cgroup_quotas` are CPUs per group that has a quota, this process's own group first. `cores`
    counts the physical ones behind those of the affinity (None: not told); it bounds nothing, since a core with two busy
    threads does more than with one.
    """

    logical: int
    affinity: int | None
    cgroup_quotas: tuple[float, ...]
    cores: int | None = None


class MemoryFacts(NamedTuple):
    """The memory of the host, and of the control group with the smallest limit (None: no group limits it).

    `available_bytes` is the memory that the host could hand out without swapping. `cgroup_used_bytes` leaves out the file
    cache, which the kernel would drop first. `total_bytes` is for messages: `available_bytes` is never more.
    """

    total_bytes: int
    available_bytes: int
    cgroup_limit_bytes: int | None
    cgroup_used_bytes: int | None


class _Group(NamedTuple):
    """A control group that limits memory."""

    limit_bytes: int
    used_bytes: int | None


class _Mount(NamedTuple):
    """One mount of a cgroup hierarchy: the directory `point` shows the group `root` and the groups below it."""

    root: str
    point: str


def usable_cpus(facts: CpuFacts) -> int:
    """Return how many CPUs can be kept busy at once, at least 1.

    A quota is rounded up: 1.5 CPUs keep one process busy and a second half busy, and one process would leave a
    third of the quota unused. Shares and weights (`cpu.shares`, `cpu.weight`) are no bound: they divide a busy host
    and leave an idle one alone, and the JDK stopped counting them because CPUs went unused (JDK-8281181).

    >>> usable_cpus(CpuFacts(logical=8, affinity=4, cgroup_quotas=(1.5, 6.0)))
    2
    """
    bounds = [facts.logical]
    if facts.affinity is not None:
        bounds.append(facts.affinity)
    bounds.extend(math.ceil(quota) for quota in facts.cgroup_quotas)
    return max(1, min(bounds))


def usable_memory_bytes(facts: MemoryFacts) -> int:
    """Return how many bytes this process and its children can still take before the host or the group is full."""
    if facts.cgroup_limit_bytes is None:
        return facts.available_bytes
    left_in_group = facts.cgroup_limit_bytes - (facts.cgroup_used_bytes or 0)
    return max(0, min(facts.available_bytes, left_in_group))


def allowed_cpus(facts: CpuFacts) -> float:
    """Return how many CPUs these facts allow to use at once, a quota as it is: 1.5 is 1.5."""
    return min([facts.logical if facts.affinity is None else facts.affinity, *facts.cgroup_quotas])


def read_cpu_facts(root: str = "/", pid: int = 0) -> CpuFacts:
    """Return the CPU facts of this host and of a process, which its children inherit; 0: of the calling thread.

    Control groups are read below the directory `root`.
    """
    quotas = (_read_quota(directory) for directory in _group_directories(root, "cpu", pid))
    logical, affinity = os.cpu_count() or 1, _read_affinity(pid)
    return CpuFacts(
        logical=logical,
        affinity=None if affinity is None else len(affinity),
        cgroup_quotas=tuple(quota for quota in quotas if quota is not None),
        cores=_count_cores(root, range(logical) if affinity is None else affinity),
    )


def read_memory_facts(root: str = "/", pid: int = 0) -> MemoryFacts:
    """Return the memory facts of this moment, those of the control groups of a process, 0: of this one.

    Control groups are read below the directory `root`.

    When several groups share the smallest limit (a pod and its only container), the fullest counts.
    """
    total_bytes, available_bytes = _read_host_memory(root)
    found = (_read_memory_group(directory) for directory in _group_directories(root, "memory", pid))
    groups = [group for group in found if group is not None]
    if not groups:
        return MemoryFacts(total_bytes, available_bytes, None, None)
    smallest = min(groups, key=lambda group: (group.limit_bytes, -(group.used_bytes or 0)))
    return MemoryFacts(total_bytes, available_bytes, smallest.limit_bytes, smallest.used_bytes)


def _read_affinity(pid: int) -> set[int] | None:
    try:
        # It knows of cpusets too: the kernel shrinks the mask to the CPUs of the group.
        return os.sched_getaffinity(pid)
    except (AttributeError, OSError):  # macOS has no such call, a seccomp filter may refuse it
        return None


def _count_cores(root: str, cpus: Iterable[int]) -> int | None:
    """Return how many cores these CPUs are threads of: those of one core name the same siblings.

    psutil counts all cores of the host, also those that this process may not use.
    """
    folder = os.path.join(root, "sys/devices/system/cpu")
    siblings = {_read_text(folder, f"cpu{cpu}/topology/thread_siblings_list") for cpu in cpus}
    return None if None in siblings else len(siblings) or None


def _read_host_memory(root: str) -> tuple[int, int]:
    """Return (total, available) bytes from the lines NAME: NUMBER kB of proc_meminfo(5).

    psutil does the same, but its import takes 10 ms of the start of a pool. A container's own /proc/meminfo may have
    more available than there is.
    """
    lines = (line.split() for line in (_read_text(root, "proc/meminfo") or "").split("\n"))
    kib = {words[0]: _parse_int(words[1]) for words in lines if len(words) > 1}
    total, available = kib.get("MemTotal:"), kib.get("MemAvailable:")
    if total is None or available is None:  # the kernel, asked directly, takes the file cache for used
        page_bytes = os.sysconf("SC_PAGE_SIZE")
        return page_bytes * os.sysconf("SC_PHYS_PAGES"), page_bytes * os.sysconf("SC_AVPHYS_PAGES")
    return total * 1024, min(available, total) * 1024


def _read_quota(directory: str) -> float | None:
    """Return the CPUs which the group may use; neither v2's "max" nor v1's -1 is a quota."""
    text = _read_text(directory, "cpu.max")
    if text is None:
        quota_us = _read_int(directory, "cpu.cfs_quota_us")
        period_us = _read_int(directory, "cpu.cfs_period_us")
    else:
        quota, _, period = text.partition(" ")
        quota_us, period_us = _parse_int(quota), _parse_int(period)
    if quota_us is None or quota_us <= 0 or period_us is None or period_us <= 0:
        return None
    return quota_us / period_us


def _read_memory_group(directory: str) -> _Group | None:
    limit_bytes = _read_int(directory, "memory.max", "memory.limit_in_bytes")
    if limit_bytes is None or not 0 <= limit_bytes < _V1_UNLIMITED_BYTES:
        return None
    used_bytes = _read_int(directory, "memory.current", "memory.usage_in_bytes")
    if used_bytes is not None:
        used_bytes = max(0, used_bytes - _read_inactive_file_bytes(directory))
    return _Group(limit_bytes, used_bytes)


def _read_inactive_file_bytes(directory: str) -> int:
    """Return the file cache of the group, which the kernel drops before it kills processes for want of memory.

    Without it, a group that has read large files looks full. `docker stats` and the kubelet leave it out as well.
    """
    words = (_read_text(directory, "memory.stat") or "").split()
    stat = dict(zip(words[::2], words[1::2], strict=False))
    # v1's inactive_file leaves out the groups below, which its usage counts; v2 has one name, and counts them.
    return _parse_int(stat.get("total_inactive_file") or stat.get("inactive_file", "")) or 0


def _group_directories(root: str, controller: str, pid: int = 0) -> list[str]:
    """Return the directory of each group that may limit `controller` for a process, its own group first; 0: this one.

    On a hybrid host v1 and v2 are both there; a controller lives in one of them, and the other has no file of it.
    """
    directories: list[str] = []
    for hierarchy in (controller, _UNIFIED):
        path = _read_path(root, hierarchy, pid)
        mounts = _read_mounts(root, hierarchy)
        if path is not None and mounts:
            directories += _walk_up(path, mounts)
    return directories


def _walk_up(path: str, mounts: list[_Mount]) -> list[str]:
    """Return the directories from the group `path` up to the root of its mount.

    All of them, because a quota of a group holds for all groups below it and shows only in its own directory. Inside
    a container `path` may be the host's name of the group, while the container's own group is mounted as the root.
    """
    for mount in mounts:
        names = _names_below(mount.root, path)
        if names is not None and os.path.isdir(os.path.join(mount.point, *names)):
            return [os.path.join(mount.point, *names[:depth]) for depth in range(len(names), -1, -1)]
    return [mounts[0].point]


def _names_below(mount_root: str, path: str) -> list[str] | None:
    """Return how to get from the group `mount_root` down to `path`, or None if that is not below it."""
    above = [name for name in mount_root.split("/") if name]
    names = [name for name in path.split("/") if name]
    below = names[len(above) :]
    # ".." is how the kernel shows a group outside of the cgroup namespace, see cgroup_namespaces(7).
    return None if names[: len(above)] != above or ".." in below else below


def _read_path(root: str, hierarchy: str, pid: int) -> str | None:
    """Return the group of a process in a hierarchy, from the lines ID:CONTROLLERS:PATH of cgroups(7)."""
    for line in (_read_text(root, f"proc/{pid or 'self'}/cgroup") or "").split("\n"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path and hierarchy in controllers.split(","):
            return path
    return None


def _read_mounts(root: str, hierarchy: str) -> list[_Mount]:
    """Return where a hierarchy is mounted, from the lines of proc_pid_mountinfo(5).

    Their fields are ID PARENT DEVICE ROOT POINT OPTIONS [FIELD...] - TYPE SOURCE SUPER_OPTIONS. Distributions differ in
    the names of their mounts (cpu, cpu,cpuacct, unified), so these are not guessed.
    """
    mounts: list[_Mount] = []
    for line in (_read_text(root, "proc/self/mountinfo") or "").split("\n"):
        place, _, kind = line.partition(" - ")
        fields, kind_fields = place.split(" "), kind.split(" ")
        if len(fields) < 5 or len(kind_fields) < 3 or not _is_mount_of(hierarchy, kind_fields[0], kind_fields[2]):
            continue
        point = os.path.join(root, _unescape(fields[4]).lstrip("/"))
        mounts.append(_Mount(_unescape(fields[3]), point))
    return mounts


def _is_mount_of(hierarchy: str, fs_type: str, super_options: str) -> bool:
    if hierarchy == _UNIFIED:
        return fs_type == "cgroup2"
    return fs_type == "cgroup" and hierarchy in super_options.split(",")


def _unescape(field: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field


def _read_text(directory: str, name: str) -> str | None:
    try:
        # A group's name is any bytes: surrogateescape brings them back unharmed when the name is used as a path.
        with open(os.path.join(directory, name), encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return None


def _read_int(directory: str, *names: str) -> int | None:
    """Return the number in the first of these files that exists; None if no file exists, or it has no number."""
    for name in names:
        text = _read_text(directory, name)
        if text is not None:
            return _parse_int(text)
    return None


def _parse_int(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def group_directories(controller: str, root: str = "/") -> list[str]:
    """Return the directory of each group that may limit `controller` for this process, its own group first."""
    return _group_directories(root, controller)


def read_quota(directory: str) -> float | None:
    """Return the CPUs which the group of this directory may use, None if it has no quota."""
    return _read_quota(directory)


def read_lines(directory: str, name: str) -> list[str]:
    """Return the lines of a file of this directory, an empty one if it cannot be read."""
    return (_read_text(directory, name) or "").split("\n")
