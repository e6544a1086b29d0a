"""What happens at a fault point: in a faulty build this file is the module procjobs._faults.

    OFFSET SIZE FIELD      of the slot of a point, in the file `faults` of the directory in $PROCJOBS_STORE_CHAOS
    0      4    how many more times it is passed before it acts; 0: it does not
    4      4    Action
    8      4    milliseconds that it sleeps
    12     4    how often it was passed
    16     4    how often it has acted
    20     4    pid of the process in which it acted last
"""

import faulthandler
import mmap
import os
import signal
import struct
import time
from enum import IntEnum

DIRECTORY = "PROCJOBS_STORE_CHAOS"
SLOT = struct.Struct("<IIIIII")
_U32 = struct.Struct("<I")

assert SLOT.size == 24


class Action(IntEnum):
    """What a process does at a point to itself."""

    KILL = 1
    STOP = 2
    SLEEP = 3


def note(*words):
    """Append a line with the time to the ledger, in one system call.

    A kill can cut it off where it crosses a page of the file: a whole line ends with a dot, and each begins a new one.
    """
    fd = os.open(f"{os.environ[DIRECTORY]}/ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"\n{' '.join(map(str, words))} {time.monotonic()} .\n".encode())
    finally:
        os.close(fd)


def _map_file():
    try:
        with open(f"{os.environ[DIRECTORY]}/faults", "r+b") as file:
            return mmap.mmap(file.fileno(), 0)
    except (KeyError, OSError):  # a program that stands on the build without the chaos
        return None


_memory = _map_file()
if _memory is not None:  # on this signal, each process shows its stacks: what hangs is to be seen
    _stacks = os.open(f"{os.environ[DIRECTORY]}/stacks-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    faulthandler.register(signal.SIGRTMAX, _stacks, chain=False)


def show_stacks(pids):
    """Have processes of the faulty build write the stacks of all their threads into files of the chapter."""
    for pid in pids:
        if os.path.exists(f"{os.environ[DIRECTORY]}/stacks-{pid}"):
            os.kill(pid, signal.SIGRTMAX)


def reach(number):
    """Pass a fault point."""
    if _memory is None:
        return
    at = number * SLOT.size
    rest, action, milliseconds, passed, acted, _ = SLOT.unpack_from(_memory, at)
    _U32.pack_into(_memory, at + 12, passed + 1 & 0xFFFF_FFFF)
    if not rest:
        return
    _U32.pack_into(_memory, at, rest - 1)
    if rest > 1:
        return
    struct.pack_into("<II", _memory, at + 16, acted + 1, os.getpid())
    note("fault", number, Action(action).name, os.getpid())
    if action == Action.KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == Action.STOP:
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        time.sleep(milliseconds / 1000)


class Faults:
    """The file as the chaos sees it."""

    def __init__(self, directory, count):
        path = f"{directory}/faults"
        with open(path, "w+b") as file:
            file.truncate(count * SLOT.size)
            self._memory = mmap.mmap(file.fileno(), 0)
        self._count = count

    def arm(self, number, passes, action, milliseconds=0):
        """Let a point act when it is passed for the n-th time from now on."""
        struct.pack_into("<II", self._memory, number * SLOT.size + 4, action, milliseconds)
        _U32.pack_into(self._memory, number * SLOT.size, passes)

    def disarm(self):
        """Let no point act any more."""
        for number in range(self._count):
            _U32.pack_into(self._memory, number * SLOT.size, 0)

    def passed(self, number):
        """Return how often a point was passed."""
        return SLOT.unpack_from(self._memory, number * SLOT.size)[3]

    def acted(self, number):
        """Return how often a point has acted, and the pid of the last process."""
        return SLOT.unpack_from(self._memory, number * SLOT.size)[4:6]
