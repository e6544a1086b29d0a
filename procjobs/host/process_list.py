"""The processes of the host as a reader sees them, with their parents: for people who look at a pool.

Read from /proc directly, as in `observe`: proc(5) describes the fields. Where the host does not tell of processes, there are
none. To read those of a host with 500 processes takes some 10 ms.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final, NamedTuple

from procjobs.clock import wall
from procjobs.host import observe
from procjobs.shared.fact_records import ProcessInfo

_STATE, _PARENT, _TIMES, _THREADS, _START = 0, 1, slice(11, 15), 17, 19
"""Places in /proc/PID/stat, counted from the state, field 3; the times are of user and system, own and of ended children."""
_MAX_COMMAND: Final = 1000


class Entry(NamedTuple):
    """A process; `ticks` are its CPU times: user, system, and both of its ended children. `start` is in ticks as well."""

    pid: int
    parent_pid: int
    name: str
    state: str
    ticks: tuple[int, ...]
    threads: int
    start: int


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # it has gone, or is not ours to look at
        return b""


def _entry(pid: int) -> Entry | None:
    head, _, rest = _read(f"/proc/{pid}/stat").rpartition(b")")
    fields = rest.split()
    if len(fields) <= _START:
        return None
    return Entry(
        pid, int(fields[_PARENT]), head.partition(b"(")[2].decode(errors="replace"),
        observe.state_text(fields[_STATE]), tuple(map(int, fields[_TIMES])), int(fields[_THREADS]), int(fields[_START]),
    )  # fmt: skip


class ProcessList:
    """The processes of the host at one moment."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._children: dict[int, list[int]] = {}
        with contextlib.suppress(OSError):
            for name in os.listdir("/proc"):
                entry = _entry(int(name)) if name.isdigit() else None
                if entry is not None:
                    self._entries[entry.pid] = entry
                    self._children.setdefault(entry.parent_pid, []).append(entry.pid)

    def tree(self, pid: int) -> list[Entry]:
        """Return a process and its descendants, except daemons that are to outlive it; nothing if it has gone."""
        root = self._entries.get(pid)
        if root is None or root.state in {"zombie", "dead"}:
            return []
        members = [root]
        for member in members:  # it grows as it is read
            children = [self._entries[child] for child in self._children.get(member.pid, ())]
            members += [child for child in children if not observe.is_detached(child.pid)]
        return members

    def of_job(self, worker_pid: int, supervisor_pid: int) -> list[Entry]:
        """Return a worker and the processes of its job, orphans among them: a worker adopts those.

        Nothing if it is no process of this supervisor: the pid may be another one's by now.
        """
        if worker_pid not in {entry.pid for entry in self.tree(supervisor_pid)}:
            return []
        return self.tree(worker_pid)


def describe(entry: Entry) -> ProcessInfo:
    """Return a process as people see it."""
    per_second = os.sysconf("SC_CLK_TCK")
    command = _read(f"/proc/{entry.pid}/cmdline").rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return ProcessInfo(
        entry.pid,
        entry.parent_pid,
        entry.name,
        command if len(command) <= _MAX_COMMAND else f"{command[: _MAX_COMMAND - 1]}…",
        entry.state,
        sum(entry.ticks[:2]) / per_second,
        observe.rss_of([entry.pid]),
        entry.threads,
        round(wall() - observe.process_clock() + entry.start / per_second, 2),
    )


def usage_of(entries: list[Entry], *, pss: bool) -> tuple[float, int, int | None]:
    """Return the CPU seconds of these processes and of their ended children, their resident bytes, and their PSS.

    The PSS is None if it is not wanted, or not told of one of them. To read it takes about 1 ms for 100 MB.
    """
    ticks = sum(sum(entry.ticks) for entry in entries)
    pids = [entry.pid for entry in entries]
    return ticks / os.sysconf("SC_CLK_TCK"), observe.rss_of(pids), _pss_of(pids) if pss else None


def _pss_of(pids: list[int]) -> int | None:
    total = 0
    for pid in pids:
        lines = _read(f"/proc/{pid}/smaps_rollup").split(b"\nPss:")
        if len(lines) < 2:
            if os.path.isdir(f"/proc/{pid}"):
                return None
            continue  # it has ended meanwhile
        total += int(lines[1].split()[0]) * 1024
    return total
