"""Which processes had a task: the column `runner`, from which the next runner tells whether they have ended.

It has the identity of the runner's pool, whose supervisor ends after everything that the task has started. Pids are given
again, so the time of the start belongs to it (proc(5), stat), and so do the kernel's life and the pid namespace.
"""

from __future__ import annotations

import json
import os
import socket


def describe(pid: int) -> str:
    """Return the identity of the supervisor `pid` of this runner's pool, as text."""
    boot, namespace = _place()
    facts = {"host": socket.gethostname(), "runner": os.getpid(), "pool": pid, "started": _started(pid)}
    return json.dumps({**facts, "boot": boot, "namespace": namespace})


def has_ended(runner: str | None, *, is_of_this_host: bool) -> bool | None:
    """Return whether the processes of a runner have ended; None if that cannot be seen from here.

    `is_of_this_host`: the runner can have worked on this host alone; then another life of the kernel is an earlier one.
    """
    try:
        facts = json.loads(runner or "")
        boot, namespace, pid, started = facts["boot"], facts["namespace"], facts["pool"], facts["started"]
    except (ValueError, KeyError, TypeError):
        return None
    here = _place()
    if not boot or (boot, namespace) != here:
        return True if is_of_this_host and boot and here[0] and boot != here[0] else None
    return bool(_started(pid) != started)


def name_of(runner: str | None) -> str:
    """Return a runner in words."""
    try:
        facts = json.loads(runner or "")
        return f"the runner {facts['runner']} on host {facts['host']}"
    except (ValueError, KeyError, TypeError):
        return "an unknown runner"


def _started(pid: int) -> int | None:
    """Return when a process was started, in clock ticks since the boot; None if there is none, or only its zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before it may have blanks and parentheses
    except OSError:
        return None
    return None if fields[0] in {b"Z", b"X"} else int(fields[19])


def _place() -> tuple[str, int]:
    """Return the kernel's life and the pid namespace; an empty text where /proc tells nothing about the kernel."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip(), os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return "", 0
