"""Jobs that tell where they run and how many threads they have."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time


def affinity():
    return sorted(os.sched_getaffinity(0))


def affinity_of_all_threads():
    """Return the CPUs of each thread of this process, one of its own among them."""
    event = threading.Event()
    thread = threading.Thread(target=event.wait, daemon=True)
    thread.start()
    try:
        return [sorted(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")]
    finally:
        event.set()
        thread.join()


def affinity_of_child():
    code = "import os; print(*sorted(os.sched_getaffinity(0)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


def affinity_when_there(path):
    """Start a thread, wait for the file, and return the CPUs of all threads."""
    thread = threading.Thread(target=wait_for, args=(path,), daemon=True)
    thread.start()
    wait_for(path)
    return [sorted(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")]


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)  # job


def environment(name):
    return os.environ.get(name)


def threads_after_matmul():
    import numpy as np

    matrix = np.ones((400, 400))
    assert 400.0 == (matrix @ matrix)[0, 0]
    return len(os.listdir("/proc/self/task"))


def is_preloaded(module):
    """Return whether a module was there before this job's function was."""
    return module in sys.modules


def start_large_grandchild(directory, size):
    """Start a process that starts one with so many bytes, which writes its pid; wait for the file "go" for all of them."""
    large = (
        f"import os, sys; data = bytearray(b'x') * {size}; "
        f"f = open({directory!r} + '/new', 'w'); f.write(str(os.getpid())); f.close(); "
        f"os.rename({directory!r} + '/new', {directory!r} + '/pid'); sys.stdin.read()"
    )
    between = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {large!r}])"
    child = subprocess.Popen([sys.executable, "-c", between], stdin=subprocess.PIPE)
    wait_for(f"{directory}/go")
    child.communicate()
