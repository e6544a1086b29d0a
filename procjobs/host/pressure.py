"""How busy the CPUs of this process are, and how often tasks wait for CPUs or for memory.

The kernel counts up; the answer is the difference of two readings. `read_counters` fetches the counters of this host and of
the control groups, `load_between` is a function of two readings. Where a host does not tell a fact, it is missing, never an
error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from procjobs.clock import monotonic
from procjobs.host import cpus, hostinfo

_MICROSECOND = 1e-6


class Counters(NamedTuple):
    """The counts until the monotonic time `at`, in seconds.

    `cpus_busy` and `cpus_passed` are those of the CPUs that this process may use, added up. `groups` has, for each group
    above this process that has a quota, the CPU time that it has used, and its quota in CPUs. `cpu_stalls` and
    `memory_stalls` are the times in which at least one task waited, on the host first, then of each group.
    """

    at: float
    cpus_busy: float
    cpus_passed: float
    groups: tuple[tuple[float, float], ...]
    cpu_stalls: tuple[float, ...]
    memory_stalls: tuple[float, ...]


class Load(NamedTuple):
    """Parts of a stretch of time, 0.0 to 1.0; None where that is not known.

    `cpu_used` is the used part of the CPUs, or of a quota if that is more. `cpu_pressure` and `memory_pressure` are the part
    of the time in which at least one task waited, on the host or in a group, whichever is more.
    """

    cpu_used: float | None
    cpu_pressure: float | None
    memory_pressure: float | None


def load_between(before: Counters, after: Counters) -> Load:
    """Return the load between two readings.

    >>> before = Counters(10.0, 100.0, 400.0, ((7.0, 1.5),), (3.0,), ())
    >>> load_between(before, Counters(12.0, 101.0, 404.0, ((9.25, 1.5),), (3.5,), ()))
    Load(cpu_used=0.75, cpu_pressure=0.25, memory_pressure=None)
    """
    seconds = after.at - before.at
    used = [_share(after.cpus_busy - before.cpus_busy, after.cpus_passed - before.cpus_passed)]
    if len(before.groups) == len(after.groups):
        pairs = zip(before.groups, after.groups, strict=True)
        used += [_share(new[0] - old[0], new[1] * seconds) for old, new in pairs]
    return Load(
        _largest(used),
        _largest(_stalled(before.cpu_stalls, after.cpu_stalls, seconds)),
        _largest(_stalled(before.memory_stalls, after.memory_stalls, seconds)),
    )


def _stalled(before: tuple[float, ...], after: tuple[float, ...], seconds: float) -> list[float | None]:
    if len(before) != len(after):  # this process was moved to another group in between
        return []
    return [_share(new - old, seconds) for old, new in zip(before, after, strict=True)]


def _share(part: float, whole: float) -> float | None:
    return min(max(part / whole, 0.0), 1.0) if whole > 0 else None


def _largest(shares: Iterable[float | None]) -> float | None:
    return max((share for share in shares if share is not None), default=None)


def read_counters(root: str = "/") -> Counters:
    """Return the counters of this moment; /proc and control groups are looked for below the directory `root`.

    About ten small files, most of them to find the groups: 0.5 ms on a host with few CPUs.
    """
    busy, passed = _read_cpu_times(root)
    groups = hostinfo.group_directories("cpu", root)
    memory_groups = hostinfo.group_directories("memory", root)
    return Counters(
        monotonic(),
        busy,
        passed,
        tuple(_read_quota_use(groups)),
        tuple(_read_stalls(root, "cpu", groups)),
        tuple(_read_stalls(root, "memory", memory_groups)),
    )


def _read_cpu_times(root: str) -> tuple[float, float]:
    """Return (busy, passed) seconds of the usable CPUs; source: proc_stat(5), the lines cpuN, in ticks.

    The fields are user, nice, system, idle, iowait, irq, softirq, steal; guest times are in the first two already. Time
    stolen by other guests of the machine is not available here, and so counts as busy.
    """
    usable = cpus.usable_cpu_numbers()
    busy = passed = 0
    for line in hostinfo.read_lines(root, "proc/stat"):
        name, _, text = line.partition(" ")
        fields = text.split()
        if not name.startswith("cpu"):
            break  # the lines of CPUs come first; the long line of interrupts is not parsed
        if name[3:].isdecimal() and int(name[3:]) in usable and len(fields) >= 4:
            ticks = [int(field) for field in fields[:8]]
            passed += sum(ticks)
            busy += sum(ticks) - sum(ticks[3:5])
    per_second = os.sysconf("SC_CLK_TCK")
    return busy / per_second, passed / per_second


def _read_quota_use(directories: list[str]) -> Iterable[tuple[float, float]]:
    for directory in directories:
        quota = hostinfo.read_quota(directory)
        used = None if quota is None else _read_cpu_use(directory)
        if quota is not None and used is not None:
            yield used, quota


def _read_cpu_use(directory: str) -> float | None:
    """Return the CPU seconds that a group has used: usage_usec of v2, or cpuacct.usage in nanoseconds of v1."""
    for line in hostinfo.read_lines(directory, "cpu.stat"):
        name, _, value = line.partition(" ")
        if name == "usage_usec" and value.isdecimal():
            return int(value) * _MICROSECOND
    for line in hostinfo.read_lines(directory, "cpuacct.usage"):
        if line.isdecimal():
            return int(line) * 1e-9
    return None


def _read_stalls(root: str, resource: str, directories: list[str]) -> Iterable[float]:
    """Yield the seconds in which at least one task has waited; source: the kernel's accounting/psi, total of "some"."""
    places = [(root, f"proc/pressure/{resource}"), *((directory, f"{resource}.pressure") for directory in directories)]
    for directory, name in places:
        for line in hostinfo.read_lines(directory, name):
            kind, _, fields = line.partition(" ")
            total = fields.rpartition("total=")[2]
            if kind == "some" and total.isdecimal():
                yield int(total) * _MICROSECOND
