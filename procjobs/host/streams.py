"""The standard streams of this process."""

from __future__ import annotations

import contextlib
import os


def replace_standard_input() -> None:
    """Let descriptor 0 read from /dev/null."""
    fd = os.open(os.devnull, os.O_RDONLY)
    os.dup2(fd, 0)
    os.close(fd)


def fill_missing_output() -> None:
    """Open /dev/null where standard output or error is closed: another file would get the number, and the output."""
    fd = os.open(os.devnull, os.O_WRONLY)
    while fd <= 2:  # open() takes the lowest number that is free
        os.set_inheritable(fd, True)
        fd = os.open(os.devnull, os.O_WRONLY)
    os.close(fd)


def redirect_output(fd: int) -> None:
    """Let standard output and error go to `fd`."""
    os.dup2(fd, 1)
    os.dup2(fd, 2)


def line_buffer_c_output() -> None:
    """Have the C library write standard output line by line: its buffer is lost when a worker ends."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError, ValueError):
        libc = ctypes.CDLL(None)
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, 1, ctypes.c_size_t(0))  # _IOLBF
