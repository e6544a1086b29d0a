"""Jobs that leave something behind in their worker, and the looks of a later job at the same thing.

Each entry of PUT_BACK is (leave, look): `look` returns the same before and after a job that calls `leave`.
"""

from __future__ import annotations

import contextlib
import contextvars
import decimal
import faulthandler
import fcntl
import gc
import io
import locale
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading

import procjobs

TENANT = contextvars.ContextVar("tenant", default=None)
KEPT = []


def handler(_number, _frame):
    raise RuntimeError("the handler of an earlier job")


def stay_in_deleted_directory():
    with tempfile.TemporaryDirectory() as path:
        os.chdir(path)


def go_elsewhere():
    os.chdir("/")


def write_file():
    """Return whether a file of 100 kB can be written, and its mode."""
    with tempfile.TemporaryDirectory() as path:
        with open(f"{path}/file", "wb") as file:
            file.write(b"x" * 100_000)
        return oct(os.stat(f"{path}/file").st_mode)


def false_status():
    return subprocess.run(["false"], check=False).returncode


def ignore_all():
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGWINCH, signal.SIGRTMIN):
        signal.signal(number, signal.SIG_IGN)


def handle_faults():
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGALRM, signal.SIGTERM, signal.SIGRTMIN + 9):
        signal.signal(number, handler)


def all_handlers():
    return [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())], faulthandler.is_enabled()


def block_and_raise():
    """Leave signals blocked and pending whose default action is the end of the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGALRM, signal.SIGRTMIN + 3])
    for number in (signal.SIGUSR1, signal.SIGALRM, signal.SIGRTMIN + 3):
        os.kill(os.getpid(), number)


def mask():
    return signal.pthread_sigmask(signal.SIG_BLOCK, [])


def limit(name, soft):
    number = getattr(resource, name)
    resource.setrlimit(number, (soft, resource.getrlimit(number)[1]))


def limits():
    names = "CPU", "AS", "DATA", "STACK", "FSIZE", "NOFILE", "NPROC", "CORE", "MEMLOCK"
    return [resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in names]


def lower_hard_limits():
    for number in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(number, (0, 0) if number == resource.RLIMIT_CORE else (10**6, 10**6))


def set_context():
    TENANT.set("alice")
    decimal.getcontext().prec = 3


def context():
    return TENANT.get(), str(decimal.Decimal(1) / 3)


def output():
    """Print, and return how the streams are set up."""
    print("größe ✓", flush=True)
    print("on standard error", file=sys.stderr, flush=True)
    logging.getLogger("look").warning("logged")
    is_original = sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__, sys.stdin is sys.__stdin__
    attributes = [(s.encoding, s.errors, s.line_buffering) for s in (sys.stdout, sys.stderr)]
    echo = subprocess.run("cat; echo of a program; echo and its error >&2", shell=True, check=True)
    flags = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in range(3)]
    kinds = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)]
    inherited = [os.get_inheritable(fd) for fd in range(3)]
    return is_original, attributes, echo.returncode, flags, kinds, inherited, sys.stdin.read()


def wrap_stdout():
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
    print("größe")


def keep_wrapped_stdout():
    """Wrap standard output anew, in an object that is collected some time later."""
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
    cycle = [sys.stdout]
    cycle.append(cycle)


def collect_and_say():
    gc.collect()
    print("hello")
    return "said"


def detach_streams():
    sys.stdout.detach()
    sys.stderr.detach()


def close_streams():
    sys.stdout.close()
    sys.stderr.close()
    sys.stdin.close()


def close_buffers():
    sys.stdout.buffer.close()
    sys.stderr.buffer.raw.close()


def replace_streams():
    sys.stdout = sys.stderr = io.StringIO()
    sys.stdin = None


def capture_forever():
    sys.stdout = sys.__stdout__ = io.StringIO()


def reconfigure_streams():
    sys.stdout.reconfigure(encoding="ascii", errors="strict", line_buffering=False)
    sys.stderr.reconfigure(encoding="latin-1", errors="strict")


def close_low():
    os.closerange(0, 3)


def close_low_and_open():
    os.closerange(0, 3)
    KEPT.extend(os.open("/dev/null", os.O_RDONLY) for _ in range(3))


def join_outputs():
    os.dup2(2, 1)


def swap_outputs():
    saved = os.dup(1)
    os.dup2(2, 1)
    os.dup2(saved, 2)
    os.close(saved)


def answer_in_standard_output():
    """Return a large result whose memory file gets the number of standard output."""
    os.close(1)
    return bytearray(1 << 20)


def redirect_to_file():
    with tempfile.TemporaryFile() as file:
        for number in range(3):
            os.dup2(file.fileno(), number)


def make_non_blocking():
    for number in range(3):
        os.set_blocking(number, False)


def not_inheritable():
    for number in range(3):
        os.set_inheritable(number, False)


def quit_interpreter():
    with contextlib.suppress(SystemExit):
        quit()  # closes standard input, too


def interpreter():
    return (
        sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(), gc.get_threshold(), socket.getdefaulttimeout(),
        sys.gettrace(), sys.getprofile(), locale.setlocale(locale.LC_ALL), faulthandler.is_enabled(),
    )  # fmt: skip


def change_interpreter():
    sys.setrecursionlimit(500)
    sys.setswitchinterval(1.0)
    gc.disable()
    gc.set_threshold(0)
    socket.setdefaulttimeout(0.001)
    faulthandler.disable()
    locale.setlocale(locale.LC_ALL, "C" if locale.setlocale(locale.LC_ALL) != "C" else "C.UTF-8")
    sys.setprofile(lambda *_: None)
    sys.settrace(lambda *_: None)


def arm_faulthandler():
    faulthandler.dump_traceback_later(0.05, exit=True)


def outlive(milliseconds=150):
    """Return after a while in which whatever was armed goes off."""
    done = threading.Event()
    done.wait(milliseconds / 1000)
    return os.getpid()


def arm_timers():
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.01)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.01, 0.01)
    signal.setitimer(signal.ITIMER_PROF, 0.01, 0.01)


def timers():
    return [signal.getitimer(number) for number in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)]


def arm_with_handler():
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)


def arm_and_fail():
    signal.alarm(1)
    raise ValueError("cannot be parsed")


def set_wakeup():
    near, far = socket.socketpair()
    far.setblocking(False)
    signal.set_wakeup_fd(far.fileno())
    KEPT.append(near)
    far.close()


def wakeup():
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return fd


def niceness():
    return os.nice(0)


PUT_BACK = {
    "timers": (arm_timers, timers),
    "timers that go off": (arm_timers, outlive),
    "timer whose handler raises": (arm_with_handler, timers),
    "alarm of a failed job": (arm_and_fail, timers),
    "ignored signals": (ignore_all, all_handlers),
    "ignored SIGCHLD": (ignore_all, false_status),
    "handlers": (handle_faults, all_handlers),
    "blocked pending signals": (block_and_raise, mask),
    "deleted directory": (stay_in_deleted_directory, os.getcwd),
    "another directory": (go_elsewhere, os.getcwd),
    "umask": (lambda: os.umask(0o777), write_file),
    "CPU limit": (lambda: limit("RLIMIT_CPU", 1), limits),
    "memory limit": (lambda: limit("RLIMIT_AS", 300 << 20), limits),
    "file size limit": (lambda: limit("RLIMIT_FSIZE", 10), write_file),
    "descriptor limit": (lambda: limit("RLIMIT_NOFILE", 3), limits),
    "hard limits": (lower_hard_limits, limits),
    "context": (set_context, context),
    "wrapped stdout": (wrap_stdout, output),
    "wrapped stdout that is kept": (keep_wrapped_stdout, output),
    "detached streams": (detach_streams, output),
    "closed streams": (close_streams, output),
    "closed buffers": (close_buffers, output),
    "replaced streams": (replace_streams, output),
    "captured output": (capture_forever, output),
    "reconfigured streams": (reconfigure_streams, output),
    "closed standard descriptors": (close_low, output),
    "files in their place": (close_low_and_open, output),
    "joined outputs": (join_outputs, output),
    "swapped outputs": (swap_outputs, output),
    "redirected": (redirect_to_file, output),
    "result in standard output": (answer_in_standard_output, output),
    "non-blocking": (make_non_blocking, output),
    "not inheritable": (not_inheritable, output),
    "quit()": (quit_interpreter, output),
    "interpreter": (change_interpreter, interpreter),
    "armed faulthandler": (arm_faulthandler, outlive),
    "wakeup descriptor": (set_wakeup, wakeup),
    "niceness": (lambda: os.nice(5), niceness),
}


def leave(kind):
    """Leave something of that kind, or nothing."""
    if kind is not None:
        PUT_BACK[kind][0]()


# What cannot be put back ------------------------------------------------------------------------------------------


def own_pipes():
    """Return the descriptors of this worker that are no files of a job, from 3 on."""
    return [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]


def open_files(path):
    KEPT.extend(os.open(f"{path}/{n}", os.O_CREAT | os.O_RDWR) for n in range(40))


def close_everything(path):
    os.closerange(3, 1 << 20)
    open_files(path)
    return "the answer"


def close_each_that_is_open(path):
    for fd in own_pipes():
        with contextlib.suppress(OSError):  # that of the listing
            os.close(fd)
    open_files(path)
    raise ValueError("an answer, too")


def cover_everything(path):
    """Let each descriptor of the worker be one of a file."""
    fd = os.open(f"{path}/0", os.O_CREAT | os.O_RDWR)
    for number in own_pipes():
        os.dup2(fd, number)
    return bytearray(1 << 20)


def close_as_daemons_do(path):
    """Close the descriptors up to 255, and take their numbers, as old daemon libraries do."""
    os.closerange(3, 256)
    open_files(path)
    return "the answer"


def close_pipe(kind):
    """Close one of the worker's own pipes, by what it is."""
    for fd in own_pipes():
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        is_pipe = target.startswith("pipe:") and mode == {"jobs": os.O_RDONLY, "answers": os.O_WRONLY}.get(kind)
        if is_pipe or (kind == "side" and target.startswith("socket:")):
            os.close(fd)
    return bytearray(1 << 20) if kind == "side" else kind


# Threads ----------------------------------------------------------------------------------------------------------


def report_for_ever(stop, value=99):
    while not os.path.exists(stop):
        procjobs.progress(value, 100, "of the job before")
        if procjobs.current_job() is not None and "leave" not in procjobs.current_job().name:
            KEPT.append(procjobs.current_job().name)


def leave_thread(stop):
    threading.Thread(target=report_for_ever, args=(stop,), daemon=True).start()


def leave_raw_thread(stop):
    import _thread

    _thread.start_new_thread(report_for_ever, (stop,))


def leave_thread_in_context(stop):
    run = contextvars.copy_context().run
    threading.Thread(target=run, args=(report_for_ever, stop), daemon=True).start()


def leave_thread_that_starts_others(stop):
    def start():
        while not os.path.exists(stop):
            other = threading.Thread(target=procjobs.progress, args=(98, 100, "of the job before"))
            other.start()
            other.join()

    threading.Thread(target=start, daemon=True).start()


def leave_timer(stop):
    def tick():
        procjobs.progress(97, 100, "of the job before")
        if not os.path.exists(stop):
            threading.Timer(0.001, tick).start()

    tick()


LEAVE_THREADS = [leave_thread, leave_raw_thread, leave_thread_in_context, leave_thread_that_starts_others, leave_timer]


def wait_with_progress(path):
    procjobs.progress(1, 2, "mine")
    while not os.path.exists(path):
        pass
    return list(KEPT)


def report_from_threads(how):
    """Report 1, 2 and 3 from threads that this job has started."""
    import _thread
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    def report(value):
        procjobs.progress(value, 3, procjobs.current_job().name)

    for value in (1, 2, 3):
        if how == "thread":
            thread = threading.Thread(target=report, args=(value,))
            thread.start()
            thread.join()
        elif how == "raw":
            done = threading.Event()
            _thread.start_new_thread(lambda value, done: (report(value), done.set()), (value, done))
            done.wait()
        elif how == "to_thread":
            asyncio.run(asyncio.to_thread(report, value))
        elif how == "kept executor":
            if not KEPT:
                KEPT.append(ThreadPoolExecutor(1))
            KEPT[0].submit(contextvars.copy_context().run, report, value).result()
        else:
            with ThreadPoolExecutor(1) as outer:

                def nest(value):
                    with ThreadPoolExecutor(1) as inner:
                        inner.submit(report, value).result()

                outer.submit(nest, value).result()
    return procjobs.current_job().id

