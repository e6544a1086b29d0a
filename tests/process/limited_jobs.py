"""Jobs that run too long, take too much, start children, or print."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import multiprocessing
import multiprocessing.shared_memory
import os
import signal
import subprocess
import sys
import threading
import time

import procjobs
from procjobs.host import process


def write(path, text=""):
    """Write a file that is there whole or not at all."""
    with open(f"{path}.new", "w") as file:
        file.write(str(text))
    os.replace(f"{path}.new", path)


def read_number(path):
    with open(path) as file:
        return int(file.read())


def wait_for_file(path, result=None):
    while not os.path.exists(path):
        time.sleep(0.005)  # job
    return result


# Too long ---------------------------------------------------------------------------------------------------


def clean_up_after_soft_timeout(path):
    try:
        time.sleep(60)  # job
    except procjobs.JobTimeout as error:
        write(path, f"{error.job_id} {error.attempt}")
        return "cleaned up"


def ignore_soft_timeout(path):
    with contextlib.suppress(procjobs.JobTimeout):
        time.sleep(60)  # job
    write(path, "ignored")
    time.sleep(60)  # job


def soft_then_hard():
    """End by the soft timeout the first time, by the hard one the second time."""
    try:
        time.sleep(60)  # job
    except procjobs.JobTimeout:
        if procjobs.current_job().attempt == 1:
            raise
        time.sleep(60)  # job


def sleep(seconds=60.0):
    time.sleep(seconds)  # job
    return seconds


def sleep_in_asyncio():
    asyncio.run(asyncio.sleep(60))


def wait_for_process():
    subprocess.run(["sleep", "60"], check=True)


def call_c_code(path=None):
    """Be two seconds or more in one call that never lets go of the GIL; return how long that took."""
    return call_c_code_of(find_size(), path)


def find_size():
    """Return what `call_c_code_of` is two seconds or more of CPU time in."""
    size, seconds = 100_000, 0.0
    while seconds < 0.1:
        size *= 2
        seconds = _time_sum(size)
    return size * 20


def call_c_code_of(size, path=None):
    if path is not None:
        write(path)
    return _time_sum(size)


def _time_sum(size):
    started = time.thread_time()  # whatever else the host has to do
    sum(range(size))  # it does not look for signals, which a multiplication of large numbers does
    return time.thread_time() - started


def spin(seconds):
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        pass
    return seconds


def compute_in_child(seconds):
    script = f"import time; end = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
    subprocess.run([sys.executable, "-S", "-c", script], check=True)
    return "computed"


def report_without_work(seconds):
    deadline, n = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        procjobs.progress(n := n + 1)
        time.sleep(0.1)  # job
    return "reported"


def stop_itself():
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)  # job


# Too much ---------------------------------------------------------------------------------------------------


def allocate(mebibytes, path=None):
    data = bytearray(b"x") * (mebibytes * 2**20)
    if path is not None:
        wait_for_file(path)
    return len(data)


def allocate_in_child(mebibytes):
    script = f"data = b'x' * ({mebibytes} * 2**20); import time; time.sleep(60)"  # job
    subprocess.run([sys.executable, "-S", "-c", script], start_new_session=True, check=True)


kept = []


def grow(mebibytes):
    kept.append(b"x" * (mebibytes * 2**20))
    return os.getpid()


def oom_score_adj(pid="self"):
    with open(f"/proc/{pid}/oom_score_adj") as file:
        return int(file.read())


# Children ---------------------------------------------------------------------------------------------------


def _sleep_in_child():
    time.sleep(600)  # job


def _child_that_leaves(path, levels):
    """Start a chain of processes whose middle ends at once; the last one sleeps and says so in a file."""
    if levels:
        if os.fork() == 0:
            os.setsid()
            _child_that_leaves(path, levels - 1)
        os._exit(0)
    write(path, os.getpid())
    time.sleep(600)  # job
    os._exit(0)


def start_children(how, path):
    """Start children of one kind, and write their pids into a file."""
    if how == "subprocess":
        pids = [subprocess.Popen(["sleep", "600"]).pid]
    elif how == "session":
        pids = [subprocess.Popen(["sleep", "600"], start_new_session=True).pid]
    elif how == "environment":
        pids = [subprocess.Popen(["/bin/sleep", "600"], env={}, start_new_session=True).pid]
    elif how == "process":
        child = multiprocessing.get_context("fork").Process(target=_sleep_in_child)
        child.start()
        pids = [child.pid]
    elif how == "pool":
        pool = multiprocessing.get_context("fork").Pool(2)
        pids = pool.map(_pid_soon, range(4))
        kept.append(pool)
    elif how == "daemon":
        if os.fork() == 0:
            _child_that_leaves(path + "-", 1)
        wait_for_file(path + "-")
        pids = [read_number(path + "-")]
    elif how == "deep":
        if os.fork() == 0:
            _child_that_leaves(path + "-", 3)
        wait_for_file(path + "-")
        pids = [read_number(path + "-")]
    else:
        raise ValueError(how)
    write(path, " ".join(map(str, set(pids))))


def _pid_soon(_n):
    time.sleep(0.02)  # job
    return os.getpid()


def start_children_and(end, how, path):
    start_children(how, path)
    if end == "wait":
        time.sleep(600)  # job
    elif end == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def transcode(end, ffmpeg, path):
    source = ["-f", "lavfi", "-i", "testsrc=size=640x360:rate=30:duration=3600"]
    target = ["-c:v", "mpeg4", "-f", "mpegts", path + ".ts"]
    child = subprocess.Popen([ffmpeg, "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *source, *target])
    while not (os.path.exists(path + ".ts") and os.path.getsize(path + ".ts") > 100_000):
        assert child.poll() is None, "ffmpeg has ended"
        time.sleep(0.005)  # job
    write(path, child.pid)
    if end == "wait":
        child.wait()
    elif end == "crash":
        os.kill(os.getpid(), signal.SIGKILL)


def use_shared_memory(n):
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=1024)
    memory.buf[0] = n
    value = memory.buf[0]
    memory.close()
    memory.unlink()
    return value, os.getpid()


def start_named_pool(name):
    pool = procjobs.Pool(name, workers=1, linger=60)
    value = pool.submit(abs, -3).result(30)
    return value, pool.stats().supervisor_pid


# Where it is ------------------------------------------------------------------------------------------------


def wait_somewhere_particular(path):
    return wait_for_file(path, "done")


def wait_with_threads(count, path):
    def wait_in_thread():
        wait_for_file(path)

    threads = [threading.Thread(target=wait_in_thread) for _ in range(count)]
    for thread in threads:
        thread.start()
    write(path + "-ready")
    for thread in threads:
        thread.join()
    return "done"


def wait_with_very_many_threads(count, path):
    done = threading.Event()
    threads = [threading.Thread(target=done.wait) for _ in range(count)]
    for thread in threads:
        thread.start()
    write(path + "-ready")
    wait_for_file(path)
    done.set()
    for thread in threads:
        thread.join()
    return "done"


def recurse(depth, path):
    if depth:
        return recurse(depth - 1, path)
    write(path + "-ready")
    return wait_for_file(path, "done")


def recurse_in_threads(count, depth, path):
    ready = threading.Barrier(count + 1)

    def recurse_here(left):
        if left:
            return recurse_here(left - 1)
        ready.wait()
        return wait_for_file(path)

    threads = [threading.Thread(target=recurse_here, args=(depth,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    ready.wait()
    write(path + "-ready")
    for thread in threads:
        thread.join()
    return "done"


def block_all_signals(path):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    write(path + "-ready")
    wait_for_file(path)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return "done"


def close_stack_pipe(seconds):
    tell = signal.getsignal(process.TELL_SIGNAL)
    os.close(tell.__closure__[0].cell_contents)
    time.sleep(seconds)  # job


# What it prints ---------------------------------------------------------------------------------------------


def speak(text, path=None, end="\n"):
    print(text, end=end, flush=True)
    if path is not None:
        wait_for_file(path)
    return procjobs.current_job().id


def speak_in_every_way(path=None):
    print("printed")
    print("printed to stderr", file=sys.stderr)
    logging.getLogger("ours").info("logged at info")
    logging.getLogger("ours").debug("logged at debug")
    subprocess.run(["sh", "-c", "echo from a child; echo its stderr >&2"], check=True)
    os.write(1, b"written to 1\n")
    if path is not None:
        wait_for_file(path)


def count_aloud(label, numbers, pause=0.0):
    for n in range(numbers):
        print(f"{label} {n}")
        if pause:
            time.sleep(pause)  # job


def print_much(mebibytes, line=b"x" * 79 + b"\n"):
    block = line * (2**20 // len(line))
    for _ in range(mebibytes):
        os.write(1, block)
    print("the end")


def run_yes(path, seconds):
    child = subprocess.Popen(["yes"])
    write(path)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(seconds)
    child.kill()
    child.wait()


def write_garbage():
    os.write(1, bytes(range(256)) * 8)
    os.write(2, b"\xff\xfe\x00 no text")


def complain_and_crash(text):
    print(text, file=sys.stderr, end="")
    os.kill(os.getpid(), signal.SIGKILL)


def flood_and_crash(data):
    os.write(2, data)
    os.kill(os.getpid(), signal.SIGKILL)


def printf_in_c(text):
    ctypes.CDLL(None).printf(text.encode() + b"\n")


def tiny(n):
    print(f"<{n}>")
    return n


def tiny_but_rarely_loud(n):
    if n % 100 == 99:
        print(f"<{n}>")
    return n


def job_id_of_a_record():
    record = logging.getLogger("ours").makeRecord("ours", logging.INFO, "file", 1, "text", (), None)
    return record.job_id


def wait_with_forks(count, path):
    """Fork processes that share all of this one's memory, and wait."""
    pids = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            wait_for_file(path)
            os._exit(0)
        pids.append(pid)
    write(path + "-ready")
    for pid in pids:
        os.waitpid(pid, 0)
    return "done"


def start_eater(mebibytes):
    """Start a process that has so much memory, and leave it running."""
    script = f"data = b'x' * ({mebibytes} * 2**20); print('ready', flush=True); import time; time.sleep(60)"  # job
    child = subprocess.Popen([sys.executable, "-S", "-c", script], stdout=subprocess.PIPE)
    child.stdout.readline()
    kept.append(child)


def map_in_multiprocessing(count):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(_square, range(count))


def _square(n):
    return n * n
