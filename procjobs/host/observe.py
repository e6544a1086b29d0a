"""Looking at processes of the host: their owner, their usage, their state. Nothing here changes any process.

Read from /proc directly: psutil needs files that a hardened host hides (proc(5), subset=pid), and raises without them. An
observation never raises: the answer is then nothing, or 0.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from procjobs.host.descriptors import move_up, open_descriptor

MARK: Final = "PROCJOBS_POOL"
"""The environment variable by which the processes of a pool are found when they have lost their parent."""
DETACHED: Final = "PROCJOBS_DETACHED"
"""The environment variable of a daemon that is to outlive the job that started it, such as another pool's supervisor."""

_STATE, _PARENT, _CPU_TIMES, _START = 0, 1, slice(11, 15), 19
"""Places in what `_read_stat` returns: state, parent, user and system time with those of ended children, start."""
_STATES: Final = {
    b"R": "running", b"S": "sleeping", b"D": "disk-sleep", b"T": "stopped", b"t": "tracing-stop", b"Z": "zombie",
    b"X": "dead", b"I": "idle", b"P": "parked",
}  # fmt: skip
_MAX_TASKS: Final = 64
_OWN_BYTES: Final = 4 * 2**20
"""The memory of a worker that it does not share with the template when it is ready; measured, 2 to 3 MiB."""


def _read(path: str) -> bytes:
    """Return what a file of /proc says; it is closed whatever comes between (Ctrl-C). Raise OSError."""
    return open_descriptor(os.open, path, os.O_RDONLY | os.O_CLOEXEC).readall()


def _read_stat(pid: int | str) -> list[bytes]:
    """Return the fields of /proc/PID/stat from the state on, field 3 of proc(5); nothing if it cannot be read."""
    try:
        return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return []


def sees_processes() -> bool:
    """Return whether the kernel tells about processes: not where /proc is not mounted."""
    return bool(_read_stat("self"))


def start_ticks(pid: int) -> int | None:
    """Return when a process was started, in clock ticks since the boot; None if there is none, or only its zombie."""
    fields = _read_stat(pid)
    return None if not fields or fields[_STATE] in b"ZX" else int(fields[_START])


def thread_start_ticks(pid: int, thread: int) -> int | None:
    """Return when a thread of a process was started, as `start_ticks` does; `thread` is its number in the kernel."""
    fields = _read_stat(f"{pid}/task/{thread}")
    return None if not fields or fields[_STATE] in b"ZX" else int(fields[_START])


def _all_pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _children_by_parent() -> dict[int, list[int]]:
    """Return the children of each process of the host, zombies among them; nothing where there is no /proc."""
    children: dict[int, list[int]] = {}
    for pid in _all_pids():
        fields = _read_stat(pid)
        if fields:
            children.setdefault(int(fields[_PARENT]), []).append(pid)
    return children


def child_pids() -> set[int]:
    """Return the pids of this process's children; adopted orphans and zombies are among them."""
    return set(_children_by_parent().get(os.getpid(), ()))


def descendants(pid: int) -> list[int]:
    """Return the pids of the descendants of a process."""
    children = _children_by_parent()
    found = list(children.get(pid, ()))
    for member in found:  # it grows as it is read
        found += children.get(member, ())
    return found


def programs_of(pid: int, since: float) -> list[int]:
    """Return the descendants of a process, except children from before `since`, the DETACHED, and the descendants of those.

    The outermost come first: a shell that waits for a program, and sees that end, goes on with the next one.
    """
    children = _children_by_parent()
    found = [child for child in children.get(pid, ()) if _started_at(child) >= since and not is_detached(child)]
    for member in found:  # it grows as it is read
        found += [child for child in children.get(member, ()) if not is_detached(child)]
    return found


def is_detached(pid: int) -> bool:
    """Return whether a process is a daemon that is to outlive the job that started it."""
    return DETACHED in _environment(pid)


def own_mark() -> str | None:
    """Return the MARK of the pool that this process belongs to, None if it belongs to none."""
    return os.environ.get(MARK)


def own_children(*, only_marked: str | None = None) -> set[int]:
    """Return the pids of this process's children except the DETACHED; adopted orphans and zombies are among them.

    With `only_marked`, only living children that carry this MARK: process 1 adopts the orphans of all.
    """
    found = set()
    for pid in child_pids():
        environment = _environment(pid)
        if DETACHED not in environment and (only_marked is None or environment.get(MARK) == only_marked):
            found.add(pid)
    return found


def marked_processes(mark: str) -> Iterator[int]:
    """Yield the pids of the other processes of this user that carry this MARK, except the DETACHED."""
    for pid in _all_pids():
        with contextlib.suppress(OSError):
            if pid != os.getpid() and os.stat(f"/proc/{pid}").st_uid == os.geteuid():
                environment = _environment(pid)
                if environment.get(MARK) == mark and DETACHED not in environment:
                    yield pid


def _environment(pid: int) -> dict[str, str]:
    """Return the variables that a process was started with; nothing for a zombie, or one that has changed its user."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            pairs = [line.partition(b"=") for line in file.read().split(b"\0")]
    except OSError:
        return {}
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


class GroupUsage(NamedTuple):
    """The usage of a process and its descendants; CPU time of ended children that were waited for is included."""

    rss_bytes: int
    cpu_seconds: float
    processes: int


class ProcessTree:
    """Parents and children on the host, read at most every `FRESH_SECONDS`."""

    FRESH_SECONDS: Final = 0.1

    def __init__(self) -> None:
        self._read_at = float("-inf")
        self._children: dict[int, list[int]] = {}

    def _refresh(self) -> None:
        if time.monotonic() - self._read_at >= self.FRESH_SECONDS:
            self._children = _children_by_parent()
            self._read_at = time.monotonic()

    def members(self, pid: int, since: float) -> list[int]:
        """Return the pids of a process and its descendants, except children from before `since` and theirs."""
        self._refresh()
        members = [child for child in self._children.get(pid, ()) if _started_at(child) >= since]
        for member in members:  # it grows as it is read
            members += self._children.get(member, ())
        return [pid, *members]


def family(pid: int) -> list[int]:
    """Return the pids of a process and its descendants, except orphans; source: proc(5), task/children.

    It costs 50 us for a process; to look through all processes of the host takes milliseconds. A kernel without
    CONFIG_PROC_CHILDREN tells no children.
    """
    members = [pid]
    for member in members:  # it grows as it is read
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{member}/task"):
                with contextlib.suppress(OSError), open(f"/proc/{member}/task/{task}/children", "rb") as file:
                    members += [int(child) for child in file.read().split()]
    return members


def rss_of(pids: Iterable[int]) -> int:
    """Return the resident bytes of these processes together; those that have gone count as 0."""
    return sum(map(_rss_bytes, pids))


def _rss_bytes(pid: int | str) -> int:
    """Return the resident bytes of a process: the second field of /proc/PID/statm, in pages; 0 if it cannot be read."""
    try:
        return int(_read(f"/proc/{pid}/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def usage_of(pids: Iterable[int]) -> GroupUsage:
    """Return the usage of these processes together; those that have gone count as 0."""
    rss, ticks, count = 0, 0, 0
    for pid in pids:
        fields = _read_stat(pid)
        if fields:
            rss += _rss_bytes(pid)
            ticks += sum(map(int, fields[_CPU_TIMES]))
            count += 1
    return GroupUsage(rss, ticks / os.sysconf("SC_CLK_TCK"), count)


def private_and_shared(pids: Iterable[int]) -> tuple[int, int]:
    """Return the sum of the bytes that one process has for itself, and the most that a process shares with others.

    Reads the page tables of each, about 1 ms for 100 MB (proc(5), smaps_rollup).
    """
    private = shared = 0
    for pid in pids:
        counts = {b"Private": 0, b"Shared": 0}
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                kind = line.partition(b"_")[0]
                if kind in counts and b"Hugetlb" not in line:
                    counts[kind] += int(line.split()[1]) * 1024
        private += counts[b"Private"]
        shared = max(shared, counts[b"Shared"])
    return private, shared


class WorkerPeaks:
    """Collects the peaks of workers that have ended."""

    def __init__(self) -> None:
        self.workers = 0
        self.worker_bytes = 0
        self.shared_bytes = 0

    def add(self, baseline_bytes: int, peak_bytes: int, used_bytes: int, own_peak_bytes: int = 0) -> None:
        """Count a worker that has run jobs.

        `baseline_bytes` were resident when it was ready, and most of that is shared with the others. `peak_bytes` is the
        kernel's account: the highest resident size of the worker, or of a process that it has waited for (getrusage(2)).
        `own_peak_bytes` is the peak of the worker alone, 0 if it ended before it could be measured: if `peak_bytes` is
        larger, it is a child's, which shares nothing. `used_bytes` is the most that was measured of the worker with all of
        its processes, 0 if that was never measured.
        """
        child_bytes = peak_bytes if own_peak_bytes and peak_bytes > own_peak_bytes + _OWN_BYTES else 0
        own_bytes = (own_peak_bytes if child_bytes else peak_bytes) - baseline_bytes
        self.workers += 1
        self.worker_bytes = max(self.worker_bytes, max(own_bytes + child_bytes, used_bytes) + _OWN_BYTES)
        self.shared_bytes = max(self.shared_bytes, baseline_bytes)


def tree_private(pid: int) -> int:
    """Return the sum of the bytes that a process and its descendants each have for themselves; 0 if it has gone."""
    return private_and_shared([pid, *descendants(pid)])[0]


class MemoryUse(NamedTuple):
    """Resident bytes of some processes: added up, and with shared bytes divided among their sharers (PSS)."""

    rss_bytes: int
    pss_bytes: int


def memory_of(pids: Iterable[int]) -> MemoryUse:
    """Return the memory of these processes; if the kernel does not tell the PSS of one, its RSS counts.

    Costs as much as `private_and_shared`; processes that have gone count as 0. Source: proc(5), smaps_rollup and statm.
    """
    rss = pss = 0
    for pid in pids:
        own = _own_memory(pid)
        rss, pss = rss + own.rss_bytes, pss + own.pss_bytes
    return MemoryUse(rss, pss)


def _own_memory(pid: int) -> MemoryUse:
    counts = {b"Rss": 0, b"Pss": 0}
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                name, _, rest = line.partition(b":")
                if name in counts:
                    counts[name] = int(rest.split()[0]) * 1024
        return MemoryUse(counts[b"Rss"], counts[b"Pss"])
    except OSError:  # it has gone, or this process may not look so closely (ptrace(2), access modes)
        rss = usage(pid)[0]
        return MemoryUse(rss, rss)


def busy_cpu_seconds() -> float:
    """Return the CPU time that the host has spent for all processes since its boot, without stolen time.

    0 where the host does not tell it (proc(5), subset=pid).
    """
    import psutil

    try:
        times = psutil.cpu_times()  # the time of guests is in `user` and `nice` already: proc(5), stat
    except OSError:
        return 0.0
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def process_clock() -> float:
    """Return the seconds since the host was booted: the clock of the start times of processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _started_at(pid: int) -> float:
    """Return when a process was started, 0 if it has gone; on the clock above."""
    fields = _read_stat(pid)
    return int(fields[_START]) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def own_rss() -> int:
    """Return the resident bytes of this process; 0 where there is no /proc."""
    return _rss_bytes("self")


class Meter:
    """The usage of this process between two moments."""

    def __init__(self) -> None:
        self._cpu_seconds = 0.0
        self._reset: int | None = None
        self._inode = 0

    def begin(self) -> None:
        """Begin anew. The kernel forgets the peak of the memory (proc(5), clear_refs)."""
        if self._reset is None:
            try:
                self._reset = move_up(os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC))
                self._inode = os.fstat(self._reset).st_ino
            except OSError:
                self._reset = -1
        if self._reset >= 0:
            with contextlib.suppress(OSError):
                if os.fstat(self._reset).st_ino == self._inode:  # a job may have closed it, and opened a file in its place
                    os.write(self._reset, b"5")
        self._cpu_seconds = _cpu_seconds()

    def usage(self, seconds: float) -> dict[str, float]:
        """Return CPU seconds, those of waited-for children included, and the peak of a job that is worth the 30 us."""
        used = {"cpu_seconds": round(_cpu_seconds() - self._cpu_seconds, 6)}
        if seconds >= _WORTH_A_PEAK and (self._reset or -1) >= 0:
            with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/status", "rb") as file:
                used["peak_bytes"] = int(file.read().split(b"VmHWM:")[1].split()[0]) * 1024
        return used


_WORTH_A_PEAK: Final = 0.005


def _cpu_seconds() -> float:
    import resource

    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def peak_rss(pid: int) -> int:
    """Return the highest resident size that a process has had, in bytes, 0 if it has gone (proc(5), status, VmHWM)."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def is_in_handler(pid: int, number: int) -> bool:
    """Return whether a signal that was sent to a process is still pending, or its handler runs (and so blocks it).

    The kernel gives it to the first thread if that one takes it, and that one comes first here; beyond a bound, threads are
    not looked at.
    """
    bit = 1 << (number - 1)
    try:
        for task in os.listdir(f"/proc/{pid}/task")[:_MAX_TASKS]:
            with open(f"/proc/{pid}/task/{task}/status", "rb") as file:
                for line in file:
                    if line[:7] in {b"SigPnd:", b"ShdPnd:", b"SigBlk:"} and int(line[7:], 16) & bit:
                        return True
    except OSError:
        return False
    return False


def count_threads(pid: int) -> int:
    """Return how many threads a process has; 0 if there is no such process."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def state_text(letter: bytes) -> str:
    """Return the word of ps for a letter of proc(5)."""
    return _STATES.get(letter, "sleeping")


def describe_state(pid: int) -> str:
    """Return the state of a process in the words of ps: running, sleeping, disk-sleep, stopped, ..."""
    fields = _read_stat(pid)
    if fields:
        return state_text(fields[_STATE])
    return "gone" if sees_processes() else "not told by this host"


def usage(pid: int) -> tuple[int, float]:
    """Return (resident bytes, CPU use in per cent of one CPU since its start) of a process; zeros if it has gone."""
    fields = _read_stat(pid)
    if not fields:
        return 0, 0.0
    per_second = os.sysconf("SC_CLK_TCK")
    age = process_clock() - int(fields[_START]) / per_second
    seconds = sum(map(int, fields[_CPU_TIMES][:2])) / per_second
    return _rss_bytes(pid), 100.0 * seconds / max(age, 0.01)


def tree_rss(pid: int) -> int:
    """Return the resident bytes of a process and its descendants, 0 if it has gone; shared pages count in each."""
    return rss_of([pid, *descendants(pid)])
