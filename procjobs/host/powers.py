"""What a pool asks of the kernel that a container, a service manager or an old kernel may refuse.

Each power has a try that changes nothing, the effect of its absence, and the advice what to do. A pool writes those that
are missing into its log when it starts; `procjobs doctor` shows all.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from procjobs.host import descriptors, observe, process

_SECCOMP: Final = "a seccomp profile (docker run --security-opt seccomp=..., SystemCallFilter= of systemd) that allows it"


class Power(NamedTuple):
    """`check` raises OSError where the power is missing. Without one that `is_vital`, no pool can be started."""

    name: str
    check: Callable[[], None]
    effect: str
    advice: str = _SECCOMP
    is_vital: bool = False


def _open_pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _make_memory_file() -> None:
    os.close(os.memfd_create("procjobs"))


def _set_niceness() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0))


def _set_affinity() -> None:
    try:
        os.sched_setaffinity(0, ())
    except OSError as error:
        if error.errno != errno.EINVAL:  # no CPU at all: a kernel that would do it says so
            raise


def _look_at_processes() -> None:
    if not observe.sees_processes():
        raise OSError("not mounted, or closed to this user")


def _look_at_host() -> None:
    for path in ("/proc/stat", "/proc/meminfo", "/proc/sys/kernel/random/boot_id"):
        with open(path, "rb") as file:
            file.read(1)


def _pass_descriptor() -> None:
    one, other = socket.socketpair()
    with one, other:
        socket.send_fds(one, [b"\0"], [one.fileno()])
        _, fds, _ = descriptors.receive(other, 1)
        descriptors.close_all(fds)
    if not fds:
        raise OSError("the descriptor did not arrive")


POWERS: Final = (
    Power("subreaper", process.ask_subreaper, "a supervisor cannot be the parent of its workers", is_vital=True),
    Power("sendmsg", _pass_descriptor, "no descriptor can be passed to another process", is_vital=True),
    Power(
        "pidfd_open", _open_pidfd, "the end of a process is noticed up to 0.5 s late", f"Linux 5.3 or later; or {_SECCOMP}"
    ),
    Power("memfd_create", _make_memory_file, "large arguments and results are unlinked files in the pool's directory"),
    Power("setpriority", _set_niceness, "workers are not nicer than the process that starts the pool: nice= has no effect"),
    Power("sched_setaffinity", _set_affinity, "workers run on all CPUs: affinity= has no effect"),
    Power(
        "/proc",
        _look_at_processes,
        "processes that jobs leave running are not found, and memory is not measured: max_rss= and stall_timeout= are blind",
        "mount it (mount -t proc proc /proc)",
    ),
    Power(
        "/proc/stat",
        _look_at_host,
        "the load of the host is not known to a pool that scales, and another supervisor's end is not certain at once",
        "mount /proc without subset=pid (ProcSubset=all of systemd)",
    ),
)  # fmt: skip


class Missing(NamedTuple):
    """A power that this host lacks, and the kernel's word for it."""

    power: Power
    why: str

    def __str__(self) -> str:
        return f"{self.power.name} does not work here ({self.why}): {self.power.effect}. Remedy: {self.power.advice}"


def try_powers() -> Iterator[tuple[Power, Missing | None]]:
    """Yield each power, with what is missing where it does not work. Takes some 0.1 ms."""
    for power in POWERS:
        try:
            power.check()
        except OSError as error:
            yield power, Missing(power, error.strerror or str(error))
        else:
            yield power, None


def find_missing() -> Iterator[Missing]:
    """Yield what this host lacks."""
    return (missing for _, missing in try_powers() if missing is not None)
