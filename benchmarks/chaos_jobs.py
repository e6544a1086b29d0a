"""The jobs of chaos.py, each with its expected outcome.

Every start of a job is a line in the file `starts` of the run's directory; clients write their observations into `events`.
Each line is one write to a file that is opened for appending, so a kill cannot lose or mix lines.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import procjobs

MARK = "PROCJOBS_CHAOS"
"""The environment variable that all processes of a run carry, jobs' children too: the run's directory."""
TOKEN = "PROCJOBS_CHAOS_JOB"
"""The environment variable with the token of the job that has started a process."""
MAX_QUEUED = 300


def open_pool(name, workers, version="a"):
    """Return the pool of the run. Two versions make two generations of code, which compete for the workers."""
    warnings.simplefilter("ignore", procjobs.PoolDegraded)
    return procjobs.Pool(name, workers=workers, max_queued=MAX_QUEUED, version=version)


def append(file, *fields):
    fd = os.open(f"{os.environ[MARK]}/{file}", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(fd, json.dumps(fields).encode() + b"\n")
    os.close(fd)


def recorded(function):
    """Return a function that first appends (token, job id, attempt, pid) to `starts`."""

    @functools.wraps(function)
    def run(token, *args):
        job = procjobs.current_job()
        os.environ[TOKEN] = token
        append("starts", token, job.id, job.attempt, os.getpid())
        return function(*args)

    return run


# Functions that workers run -------------------------------------------------------------------------------------


def probe():
    return os.getpid()


@recorded
def tiny(value):
    return value


@recorded
def echo(value):
    return value


@recorded
def compute(seconds):
    _spin(seconds)
    return seconds


@recorded
def nap(seconds):
    time.sleep(seconds)
    return seconds


@recorded
def report(steps):
    for step in procjobs.track(range(steps), message="at work"):
        time.sleep(0.005)
        procjobs.progress(step, steps, "m" * step * 50, {"step": step, "data": b"x" * step * 500})
    return steps


@recorded
def fail(text):
    raise ValueError(text)


@recorded
def succeed_at(attempt):
    if procjobs.current_job().attempt < attempt:
        raise ValueError("not yet")
    return attempt


@recorded
def kill_self(number):
    os.kill(os.getpid(), number)
    time.sleep(60)


@recorded
def exit_with(code):
    os._exit(code)


@recorded
def overrun(how):
    if how == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if how == "loop":
        _spin(60)
    time.sleep(60)


@recorded
def start_children(end, seconds):
    """Start a child, a child in a session of its own, and two orphans; then return, die or overrun."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen(["sleep", "100"], **quiet)
    subprocess.Popen(["sleep", "101"], start_new_session=True, **quiet)
    subprocess.run(["sh", "-c", "sh -c 'sleep 102 & sleep 103 &'"], start_new_session=True, check=False, **quiet)
    time.sleep(60 if end == "overrun" else seconds)
    if end == "die":
        os._exit(5)
    return end


@recorded
def return_what_unpickles_nowhere():
    return UnpicklesNowhere()


@recorded
def return_generator():
    return (n for n in range(3))


@recorded
def return_time():
    return time.monotonic()


class UnpicklesNowhere:
    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise RuntimeError("this cannot be unpickled")


def _spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


# Calls that clients submit --------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """A call with its options; `is_right` judges its outcome, a value or an exception."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    is_right: Callable[[Any], bool]
    options: dict[str, Any] = {}


def make_plan(rng: random.Random) -> Plan:
    """Return one of PLANS at random, sometimes with a priority."""
    (make,) = rng.choices(list(PLANS), list(PLANS.values()))
    plan = make(rng)
    if rng.random() < 0.2:
        plan = plan._replace(options={**plan.options, "priority": rng.randint(-3, 3)})
    return plan


def plan_tiny(rng):
    value = rng.random()
    return Plan(tiny, (value,), equals(value))


def plan_work(rng):
    seconds = rng.choice((0.01, 0.02, 0.05, 0.1, 0.5))
    return Plan(rng.choice((compute, nap)), (seconds,), equals(seconds))


def plan_report(rng):
    steps = rng.randint(1, 40)
    return Plan(report, (steps,), equals(steps))


def plan_failure(rng):
    text = f"no {rng.random()}"
    retries = rng.choice((0, 0, 2))
    return Plan(fail, (text,), raises(ValueError, args=(text,)), {"retries": retries, "backoff": 0.05})


def plan_late_success(rng):
    attempt = rng.randint(1, 3)
    return Plan(succeed_at, (attempt,), equals(attempt), {"retries": 2, "backoff": 0.02})


def plan_death(rng):
    number = rng.choice((signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM))
    options = {"retries": rng.choice((0, 0, 1)), "backoff": 0.02}
    return Plan(kill_self, (number,), raises(procjobs.WorkerCrashed, signal=number), options)


def plan_exit(rng):
    code = rng.choice((0, 1, 7))
    return Plan(exit_with, (code,), raises(procjobs.WorkerCrashed, exit_code=code))


def plan_overrun(rng):
    options = {
        "timeout": rng.uniform(0.1, 0.5),
        "grace_period": rng.choice((0.1, 0.4)),
        "retries": rng.choice((0, 0, 1)),
    }
    return Plan(overrun, (rng.choice(("loop", "sleep", "stubborn")),), raises(procjobs.JobTimeout), options)


def plan_children(rng):
    end = rng.choice(("return", "die", "overrun"))
    right = {
        "return": equals(end),
        "die": raises(procjobs.WorkerCrashed, exit_code=5),
        "overrun": raises(procjobs.JobTimeout),
    }
    return Plan(start_children, (end, rng.uniform(0.0, 0.8)), right[end], {"timeout": 0.6} if end == "overrun" else {})


def plan_large(rng):
    size = rng.choice((20_000, 300_000, 3_000_000))
    if rng.random() < 0.5:
        data = rng.randbytes(1000) * (size // 1000)
        return Plan(echo, (data,), equals(data))
    array = np.full(size // 8, rng.random())
    return Plan(echo, (array,), lambda outcome: isinstance(outcome, np.ndarray) and np.array_equal(array, outcome))


def plan_unpicklable(rng):
    function = rng.choice((return_generator, return_what_unpickles_nowhere))
    return Plan(function, (), raises(procjobs.PayloadError))


def plan_delayed(rng):
    delay = rng.uniform(0.01, 1.5)
    not_before = time.monotonic() + delay - 0.005
    return Plan(return_time, (), lambda outcome: isinstance(outcome, float) and outcome >= not_before, {"delay": delay})


def plan_expiring(rng):
    value = rng.random()
    is_value, is_expired = equals(value), raises(procjobs.JobExpired)
    is_right = lambda outcome: is_value(outcome) or is_expired(outcome)  # noqa: E731 - a lambda like in the other plans
    return Plan(tiny, (value,), is_right, {"expires": rng.uniform(0.01, 0.5)})


PLANS = {
    plan_tiny: 50, plan_work: 12, plan_report: 6, plan_failure: 4, plan_late_success: 6, plan_death: 3, plan_exit: 3,
    plan_overrun: 2, plan_children: 4, plan_large: 6, plan_unpicklable: 3, plan_delayed: 5, plan_expiring: 5,
}  # fmt: skip


def equals(value):
    return lambda outcome: type(outcome) is type(value) and outcome == value


def raises(kind, **attributes):
    return lambda outcome: type(outcome) is kind and all(getattr(outcome, n) == v for n, v in attributes.items())
