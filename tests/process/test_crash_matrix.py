"""The crash matrix: every stage of a job's way through the pool, times every way to die there, as one table.

For each cell the guilty job ends as the table says; a job that runs at the time on the other worker and several that wait
behind the guilty one succeed in their first attempt; both workers are there afterwards, and restarts were counted.
"""

# ruff: noqa: E501 - the table is wide

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
from typing import NamedTuple

import psutil
import pytest

import procjobs
from tests.process import deadly, jobs
from tests.process.deadly import DieAt, Died, Trap, Way

from ..conftest import wait_until

# What the user sees ----------------------------------------------------------------------------------


class Ends(NamedTuple):
    """How a job ends: its state, the reason, the type of what its handle raises, how often a worker was replaced."""

    state: str | None
    reason: str | None
    error: type[BaseException] | None
    restarts: int = 0


FINE = Ends("succeeded", None, None)
FINE_LATER = Ends("succeeded", None, None, 1)  # by another worker than the one that died
RAISED = Ends("failed", "raised", Died)
EXITED = Ends("failed", "raised", procjobs.JobError)
NO_MEMORY = Ends("failed", "raised", MemoryError)
PAYLOAD = Ends("failed", "payload", procjobs.PayloadError)
CRASHED = Ends("failed", "crashed", procjobs.WorkerCrashed, 1)
TIMEOUT = Ends("failed", "timeout", procjobs.JobTimeout)
STALLED = Ends("failed", "stalled", procjobs.JobStalled)
MEMORY = Ends("failed", "memory", procjobs.MemoryLimitExceeded)
REFUSED = Ends(None, None, procjobs.PayloadError)  # submit raises, and the pool never hears of it
LEAVES = Ends(None, None, SystemExit)  # it is the caller's own code that asks for it, in the caller's process
UNREADABLE = Ends("succeeded", None, procjobs.PayloadError)
UNREADABLE_LEAVES = Ends("succeeded", None, SystemExit)

_ = None  # left out, see LEFT_OUT
WAYS = list(Way)
# fmt: off
TABLE = {
    # stage                        EXCEPTION   SYSTEM_EXIT        OS_EXIT     SIGSEGV     SIGABRT     SIGKILL     SIGSTOP     LOOP        LOOP_IN_C   IGN_SIGTERM MEMORY_ERROR MAX_RSS
    "pickle arguments":            [REFUSED,   LEAVES,            _,          _,          _,          _,          _,          _,          _,          _,          REFUSED,     _],
    "unpickle":                    [PAYLOAD,   EXITED,            CRASHED,    CRASHED,    CRASHED,    CRASHED,    STALLED,    TIMEOUT,    TIMEOUT,    TIMEOUT,    PAYLOAD,     MEMORY],
    "import":                      [PAYLOAD,   EXITED,            CRASHED,    CRASHED,    CRASHED,    CRASHED,    STALLED,    TIMEOUT,    TIMEOUT,    TIMEOUT,    PAYLOAD,     MEMORY],
    "run":                         [RAISED,    EXITED,            CRASHED,    CRASHED,    CRASHED,    CRASHED,    STALLED,    TIMEOUT,    TIMEOUT,    TIMEOUT,    NO_MEMORY,   MEMORY],
    "progress":                    [RAISED,    EXITED,            CRASHED,    CRASHED,    CRASHED,    CRASHED,    STALLED,    TIMEOUT,    TIMEOUT,    TIMEOUT,    NO_MEMORY,   MEMORY],
    "pickle result":               [PAYLOAD,   EXITED,            CRASHED,    CRASHED,    CRASHED,    CRASHED,    STALLED,    TIMEOUT,    TIMEOUT,    TIMEOUT,    PAYLOAD,     MEMORY],
    "write":                       [CRASHED,   CRASHED,           CRASHED,    CRASHED,    CRASHED,    CRASHED,    STALLED,    TIMEOUT,    TIMEOUT,    TIMEOUT,    CRASHED,     MEMORY],
    "after the answer":            [FINE_LATER,FINE_LATER,        FINE_LATER, FINE_LATER, FINE_LATER, FINE_LATER, FINE,       FINE,       FINE,       FINE,       FINE_LATER,  _],
    "unpickle result":             [UNREADABLE,UNREADABLE_LEAVES, _,          _,          _,          _,          _,          _,          _,          _,          UNREADABLE,  _],
    "initializer":                 [FINE_LATER,FINE_LATER,        FINE_LATER, FINE_LATER, FINE_LATER, FINE_LATER, FINE,       FINE,       FINE,       FINE,       FINE_LATER,  _],
    "fork in the template":        [FINE,      FINE,              FINE,       FINE,       FINE,       FINE,       FINE,       FINE,       _,          _,          FINE,        _],
    "fork in the process between": [FINE,      FINE,              FINE,       FINE,       FINE,       FINE,       FINE,       FINE,       _,          _,          FINE,        _],
    "fork in the worker":          [FINE,      FINE,              FINE_LATER, FINE_LATER, FINE_LATER, FINE_LATER, FINE,       FINE,       _,          _,          FINE,        _],
    "preload":                     [FINE,      FINE,              FINE,       FINE,       FINE,       FINE,       FINE,       FINE,       FINE,       _,          FINE,        _],
}
# fmt: on

HANGS = [Way.SIGSTOP, Way.LOOP, Way.LOOP_IN_C, Way.IGNORING_SIGTERM]
KILLS = [Way.OS_EXIT, Way.SIGSEGV, Way.SIGABRT, Way.SIGKILL]
FORKS = ["fork in the template", "fork in the process between", "fork in the worker"]
LEFT_OUT = {
    "the user's own process ends or hangs: there is nobody left to see anything": [
        (stage, way) for stage in ("pickle arguments", "unpickle result") for way in KILLS + HANGS
    ],
    "max_rss is a limit of running jobs": [
        (stage, Way.MAX_RSS)
        for stage in ("pickle arguments", "unpickle result", "after the answer", "initializer", *FORKS, "preload")
    ],
    "no signal but SIGKILL is sent there: for the supervisor it is the same as LOOP": [
        *((stage, way) for stage in FORKS for way in (Way.LOOP_IN_C, Way.IGNORING_SIGTERM)),
        ("preload", Way.IGNORING_SIGTERM),
    ],
}
EXIT_CODES = {Way.SYSTEM_EXIT: 4, Way.OS_EXIT: 7, Way.EXCEPTION: 1, Way.MEMORY_ERROR: 1}
SIGNALS = {Way.SIGSEGV: signal.SIGSEGV, Way.SIGABRT: signal.SIGABRT, Way.SIGKILL: signal.SIGKILL}
OPTIONS = {
    Way.SIGSTOP: {"stall_timeout": 0.3, "grace_period": 0.1},
    Way.LOOP: {"timeout": 0.3},
    Way.LOOP_IN_C: {"timeout": 0.3},
    Way.IGNORING_SIGTERM: {"timeout": 0.3, "grace_period": 0.1},
    Way.MAX_RSS: {"max_rss": 64 * deadly.MEBIBYTE},
}
PATIENT = {way: {("stall_timeout" if way is Way.SIGSTOP else "timeout"): 2, "grace_period": 0.1} for way in HANGS}
"""Limits of jobs that are to end well, on a busy host too, but show that a worker hangs."""


def cells(stage):
    return {way: ends for way, ends in zip(WAYS, TABLE[stage], strict=True) if ends is not None}


def test_every_cell_is_in_the_table_or_left_out_with_a_reason():
    left_out = [cell for group in LEFT_OUT.values() for cell in group]
    empty = [(stage, way) for stage in TABLE for way in WAYS if way not in cells(stage)]
    assert sorted(left_out, key=repr) == sorted(empty, key=repr)


# One cell ---------------------------------------------------------------------------------------------


class Cell:
    """A death amid others: one job that runs at the time, several that wait."""

    def __init__(self, pool, directory, way):
        self.pool = pool
        self.way = way
        self.path = f"{directory}/{way.name}"
        self._restarts = pool.stats().restarts
        self._running = pool.submit(jobs.wait_for_file, f"{self.path}-others-go", "other")
        wait_until(self._running.running)
        self._waiting = []

    def submit(self, function, *args):
        return self.pool.options(**OPTIONS.get(self.way, {})).submit(function, *args)

    def end(self, submit, **options):
        """Return how the job that `submit` submits ends, after everybody else (with `options`) has ended well."""
        job = error = None
        try:
            job = submit()
            self._waiting = [self.pool.options(**options).submit(jobs.add, n) for n in range(5)]
            error = job.exception(30)
        except (Exception, SystemExit) as raised:  # noqa: BLE001 - whatever it is, the table says what it should be
            error = raised
        with open(f"{self.path}-others-go", "w"):
            pass
        assert (list(range(len(self._waiting))), "other") == (
            [waiting.result(30) for waiting in self._waiting],
            self._running.result(30),
        )
        assert {1} == {other.status().attempt for other in (self._running, *self._waiting)}
        assert 3 == self.pool.submit(jobs.add, 1, 2).result(30)
        wait_until(lambda: self.pool.stats().idle == 2, dump=self.pool.stats)
        if type(error) is procjobs.WorkerCrashed:
            told = (error.signal, error.exit_code, error.attempt, error.job_id)
            assert (SIGNALS.get(self.way), EXIT_CODES.get(self.way), 1, job.id) == told
        state, reason = (None, None) if job is None else (job.status().state, job.status().reason)
        return Ends(state, reason, None if error is None else type(error), self.pool.stats().restarts - self._restarts)


SUBMITS = {
    "pickle arguments": lambda cell: cell.submit(jobs.echo, DieAt.pickle(cell.way)),
    "unpickle": lambda cell: cell.submit(jobs.echo, DieAt.unpickle(cell.way)),
    "run": lambda cell: cell.submit(deadly.die, cell.way),
    "progress": lambda cell: cell.submit(deadly.report_dying, cell.way),
    "pickle result": lambda cell: cell.submit(deadly.make, DieAt.pickle, cell.way),
    "after the answer": lambda cell: cell.pool.submit(deadly.die_after_the_answer, cell.way),
    "unpickle result": lambda cell: cell.submit(deadly.make, DieAt.unpickle, cell.way),
}


@pytest.mark.parametrize("stage", SUBMITS)
def test_job_that_dies_costs_only_itself(pool, tmp_path, stage):
    ends = {}
    for way in cells(stage):
        cell = Cell(pool, tmp_path, way)
        # A worker that hangs between two jobs is noticed by the limits of the next one, which then runs on another.
        options = PATIENT.get(way, {}) if stage == "after the answer" else {}
        ends[way] = cell.end(lambda cell=cell: SUBMITS[stage](cell), **options)
    assert cells(stage) == ends


def test_job_whose_module_dies_on_import_costs_only_itself(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    ends = {}
    with procjobs.Pool(workers=2) as pool:
        for way in cells("import"):
            name = f"dies_of_{way.name.lower()}_{os.getpid()}"
            (tmp_path / f"{name}.py").write_text(
                "import os\n"
                "from tests.process.deadly import Way\n"
                f"if os.getpid() != {os.getpid()}: Way.{way.name}.die()\n"
                "def call(): pass\n"
            )
            importlib.invalidate_caches()
            function = importlib.import_module(name).call
            cell = Cell(pool, tmp_path, way)
            ends[way] = cell.end(lambda cell=cell, function=function: cell.submit(function))
            del sys.modules[name]
    assert cells("import") == ends


WRITES = {"1", "64"}  # write on x86-64 and on 64-bit ARM


def is_writing(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/syscall") as file:
        return file.read().split()[0] in WRITES
    return False


def test_job_that_dies_in_the_middle_of_its_answer_costs_only_itself(pool, tmp_path):
    supervisor = pool.stats().supervisor_pid
    ends = {}
    for way in cells("write"):
        cell = Cell(pool, tmp_path, way)
        pid_path, go = tmp_path / f"{way.name}-pid", tmp_path / f"{way.name}-go"

        def submit(cell=cell, pid_path=pid_path, go=go):
            job = cell.submit(deadly.die_while_answering, cell.way, str(pid_path), str(go))
            wait_until(pid_path.exists)
            pid = int(pid_path.read_text())
            os.kill(supervisor, signal.SIGSTOP)
            try:
                go.touch()
                wait_until(lambda: is_writing(pid))
                os.kill(pid, signal.SIGUSR1)
                wait_until(lambda: not is_writing(pid))
            finally:
                os.kill(supervisor, signal.SIGCONT)
            return job

        ends[way] = cell.end(submit)
    assert cells("write") == ends


CLIENT = """
import os, procjobs, sys
pool = procjobs.Pool(sys.argv[1])
handles = [pool.submit(os.urandom, 60_000) for _ in range(200)]
for handle in handles:
    handle.wait_accepted(30)
print("accepted", flush=True)
print(sum(len(handle.result(60)) for handle in handles))
pool.shutdown()
"""


@pytest.mark.parametrize(("number", "read"), [(signal.SIGCONT, "12000000\n"), (signal.SIGKILL, "")])
def test_client_that_does_not_read_its_answers_holds_up_nobody(pool_name, number, read):
    with procjobs.Pool(pool_name, workers=2) as pool:
        pool.pause()
        client = subprocess.Popen([sys.executable, "-c", CLIENT, pool_name], stdout=subprocess.PIPE, text=True)
        assert "accepted\n" == client.stdout.readline()
        client.send_signal(signal.SIGSTOP)
        pool.resume()
        wait_until(lambda: pool.stats().finished >= 200)
        assert [60_000] * 200 == [len(pool.submit(os.urandom, 60_000).result(30)) for _ in range(200)]
        client.send_signal(number)
        assert (read, "") == (client.communicate(timeout=60)[0], pool.stats().problem or "")
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)


# Templates and new workers ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::procjobs.PoolDegraded")
@pytest.mark.parametrize("stage", ["initializer", *FORKS, "preload"])
def test_worker_that_dies_before_its_first_job_costs_no_job(tmp_path, monkeypatch, stage):
    trap = Trap(tmp_path)
    monkeypatch.setenv("PROCJOBS_TEST_TRAP", trap.directory)
    ends = {}
    settings = {"preload": ["tests.process.deadly_preload"], "initializer": trap.spring, "initargs": ("initializer",)}
    with procjobs.Pool(workers=2, grace_period=0.1, start_timeout=1.0, **settings) as pool:
        for way in cells(stage):
            wait_until(lambda: pool.stats().idle == 2)
            cell = Cell(pool, tmp_path, way)
            trap.arm(stage, way)
            if stage == "preload":
                find_template(pool).kill()
            runs_other = cell._running.status().worker_pid  # the table may show it as idle a moment longer
            before = [worker for worker in pool.workers() if worker.pid != runs_other]
            os.kill(before[0].pid, signal.SIGKILL)
            wait_until(lambda: not psutil.pid_exists(before[0].pid))  # noqa: B023 - called in this turn of the loop
            found = cell.end(lambda cell=cell: cell.pool.submit(jobs.add, 1))
            ends[way] = found._replace(restarts=found.restarts - 1)
            assert not trap.is_armed(stage), way
    assert cells(stage) == ends


def find_template(pool):
    workers = {worker.pid for worker in pool.workers()}
    children = psutil.Process(pool.stats().supervisor_pid).children()
    (template,) = (child for child in children if child.pid not in workers)
    return template
