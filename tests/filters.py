"""Programs for which the kernel refuses system calls, as in a container with a strict seccomp profile (seccomp(2)).

No compiler and no privilege is needed: a process that gives up new privileges may install a filter for itself.
"""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NUMBERS = {
    "x86_64": {
        "pidfd_open": 434, "memfd_create": 319, "setpriority": 141, "sched_setaffinity": 203, "setsid": 112, "prctl": 157,
        "flock": 73, "sendmsg": 46, "clone": 56, "clone3": 435, "fork": 57, "vfork": 58, "setrlimit": 160, "prlimit64": 302,
        "close_range": 436, "mlock": 149, "sched_yield": 24, "fallocate": 285, "setpgid": 109, "ioprio_set": 251,
    },
    "aarch64": {
        "pidfd_open": 434, "memfd_create": 279, "setpriority": 140, "sched_setaffinity": 122, "setsid": 157, "prctl": 167,
        "flock": 32, "sendmsg": 211, "clone": 220, "clone3": 435, "setrlimit": 164, "prlimit64": 261, "close_range": 436,
        "mlock": 228, "sched_yield": 124, "fallocate": 47, "setpgid": 154, "ioprio_set": 30,
    },
}  # fmt: skip

_INSTALL = """
import ctypes, struct
def refuse(numbers, error):
    load, equal, answer = 0x20, 0x15, 0x06
    steps = [(load, 0, 0, 0)]
    for number in numbers:
        steps += [(equal, 0, 1, number), (answer, 0, 0, 0x0005_0000 | error)]
    packed = b"".join(struct.pack("HBBI", *step) for step in [*steps, (answer, 0, 0, 0x7FFF_0000)])
    buffer = ctypes.create_string_buffer(packed)
    program = ctypes.create_string_buffer(struct.pack("HP", len(packed) // 8, ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    assert 0 == libc.prctl(38, 1, 0, 0, 0) == libc.prctl(22, 2, ctypes.addressof(program), 0, 0), ctypes.get_errno()
"""

needs_filter = pytest.mark.skipif(platform.machine() not in NUMBERS, reason="the numbers are those of x86-64 and ARM")


def run_without(calls, error, body, *, environment=None, prefix=(), before="", executable=sys.executable):
    """Run a program for which these system calls fail with `error`, and for all that it starts.

    `before` runs first, without the filter; the program is `prefix` and Python.
    """
    known = NUMBERS[platform.machine()]
    numbers = [known[call] for call in calls if call in known]
    install = f"{_INSTALL}\nrefuse({numbers}, {error})" if numbers else ""
    text = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{before}\n{install}\n{body}"
    return subprocess.run(
        [*prefix, executable, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip


EPERM, ENOSYS, EAGAIN, ENOLCK = errno.EPERM, errno.ENOSYS, errno.EAGAIN, errno.ENOLCK
