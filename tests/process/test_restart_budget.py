"""What cannot start is started again ever less often, everybody is told at once, and when it can, the queue runs."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys

import psutil
import pytest

import procjobs
from tests.process import jobs
from tests.process.deadly import Way, start_settings

from ..conftest import wait_until
from .test_crash_matrix import find_template


class Bench:
    """A directory with a count of starts, a way to die for everybody who starts, and a second client of the pool."""

    def __init__(self, directory):
        self.directory = directory
        self._starts = directory / "starts"

    def starts(self):
        """Return when (monotonic) each start was."""
        return [float(line) for line in self._starts.read_text().split()] if self._starts.exists() else []

    def break_with(self, way):
        (self.directory / "way.new").write_text(way.name)
        os.replace(self.directory / "way.new", self.directory / "way")

    def mend(self):
        (self.directory / "way").unlink()


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A bench whose directory has a module `preloaded_here`, which starts or dies on import."""
    (tmp_path / "preloaded_here.py").write_text(
        f"from tests.process.deadly import start_or_die\nstart_or_die({str(tmp_path)!r})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return Bench(tmp_path)


OTHER_CLIENT = """
import procjobs, sys, time, warnings
from tests.process import deadly, jobs
name, directory, place = sys.argv[1:]
sys.path.insert(0, directory)
told = []
warnings.showwarning = lambda message, category, *_: told.append((category, str(message)))
warnings.simplefilter("always")
pool = procjobs.Pool(name, **deadly.start_settings(place, directory))
handles = [pool.submit(jobs.add, n) for n in range(10)]
while not told: time.sleep(0.01)  # job
print(told[0][0].__name__, told[0][1].replace(chr(10), " "), flush=True)
print([handle.result(60) for handle in handles], flush=True)
pool.shutdown()
"""


def told_to_other_client(name, bench, place):
    arguments = [sys.executable, "-c", OTHER_CLIENT, name, str(bench.directory), place]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


DEATHS = [
    ("initializer", Way.EXCEPTION, "the initializer failed: tests.process.deadly.Died: here"),
    ("initializer", Way.SYSTEM_EXIT, "a worker ended before it was ready (it ended with exit code 4)"),
    ("initializer", Way.OS_EXIT, "a worker ended before it was ready (it ended with exit code 7)"),
    ("initializer", Way.SIGSEGV, "a worker ended before it was ready (it was killed by SIGSEGV"),
    ("preload", Way.EXCEPTION, "tests.process.deadly.Died: here"),
    ("preload", Way.SYSTEM_EXIT, "SystemExit: 4"),
    ("preload", Way.OS_EXIT, "its template was lost: signal None, exit code 7"),
    ("preload", Way.SIGSEGV, "its template was lost: signal 11, exit code None"),
]


@pytest.mark.parametrize(("place", "way", "text"), DEATHS)
def test_what_never_starts_is_told_to_all_and_tried_less_often_until_it_works(pool_name, bench, place, way, text):
    bench.break_with(way)
    with pytest.warns(procjobs.PoolDegraded) as told:
        pool = procjobs.Pool(pool_name, workers=1, **start_settings(place, bench.directory))
        handles = [pool.submit(jobs.add, n) for n in range(10)]
        wait_until(lambda: len(told), dump=pool.stats)
        other = told_to_other_client(pool_name, bench, place)
        category, _, message = other.stdout.readline().partition(" ")
        wait_until(lambda: len(bench.starts()) >= 7)
        wait_until(lambda: pool.stats().queued == 20)
        assert text in pool.stats().problem
        bench.mend()
        assert list(range(10)) == [handle.result(30) for handle in handles]
    assert (f"{list(range(10))}\n", None) == (other.communicate(timeout=60)[0], pool.stats().problem)
    assert ("PoolDegraded", True) == (category, " ".join(text.split()) in message)
    assert all(text in str(warning.message) for warning in told)
    # Three failures are free, then the pauses are 0.1, 0.2 and 0.4 s.
    pauses = [later - earlier for earlier, later in itertools.pairwise(bench.starts())][3:6]
    assert [True] * 3 == [pause >= least for pause, least in zip(pauses, (0.1, 0.2, 0.4), strict=True)]
    pool.stop()


@pytest.mark.parametrize("text", ["'\\x00' * 40_000", "'ü' * 40_000", "'\\ud800 alone'"])
@pytest.mark.parametrize("place", ["initializer", "preload"])
def test_failure_with_any_text_is_told(bench, place, text):
    def initialize():
        raise ValueError(eval(text))

    (bench.directory / "fails_oddly.py").write_text(f"raise ValueError({text})\n")
    settings = {"initializer": initialize} if place == "initializer" else {"preload": ["fails_oddly"]}
    with pytest.warns(procjobs.PoolDegraded, match="failed: ValueError: "):
        pool = procjobs.Pool(workers=1, **settings)
        wait_until(lambda: "failed: ValueError: " in (pool.stats().problem or ""))
        pool.stop()


@pytest.mark.parametrize("way", [Way.SIGSTOP, Way.LOOP_IN_C])
@pytest.mark.parametrize("place", ["initializer", "preload"])
def test_what_hangs_when_it_starts_is_killed_after_start_timeout(pool_name, bench, place, way):
    bench.break_with(way)
    text = {
        "initializer": "a worker was not ready 0.8 s after it had been started",
        "preload": "the preload has not ended after 0.8 s (start_timeout)",
    }[place]
    with pytest.warns(procjobs.PoolDegraded) as told:
        settings = {"grace_period": 0.1, "start_timeout": 0.8, **start_settings(place, bench.directory)}
        pool = procjobs.Pool(pool_name, workers=1, **settings)
        handles = [pool.submit(jobs.add, n) for n in range(10)]
        wait_until(lambda: len(told), dump=pool.stats)
        other = told_to_other_client(pool_name, bench, place)
        category, _, message = other.stdout.readline().partition(" ")
        wait_until(lambda: len(bench.starts()) >= 3, dump=bench.starts)
        wait_until(lambda: pool.stats().queued == 20)
        assert text in pool.stats().problem
        bench.mend()
        assert list(range(10)) == [handle.result(30) for handle in handles]
    assert (f"{list(range(10))}\n", None) == (other.communicate(timeout=60)[0], pool.stats().problem)
    assert ("PoolDegraded", True) == (category, text in message)
    starts = bench.starts()
    assert [True] * 2 == [later - earlier >= 0.5 for earlier, later in itertools.pairwise(starts[:3])]
    pool.stop()


def test_initializer_that_breaks_later_costs_no_running_job(bench, tmp_path):
    with pytest.warns(procjobs.PoolDegraded), procjobs.Pool(workers=2, **start_settings("initializer", tmp_path)) as pool:
        running = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), "done")
        wait_until(lambda: running.running() and pool.stats().idle == 1)
        bench.break_with(Way.EXCEPTION)
        pool.submit(jobs.leave, 1).exception(30)
        handles = [pool.submit(jobs.add, n) for n in range(10)]
        wait_until(lambda: "the initializer failed" in (pool.stats().problem or ""))
        (tmp_path / "go").touch()
        assert ("done", list(range(10))) == (running.result(30), [handle.result(30) for handle in handles])
        bench.mend()
        wait_until(lambda: pool.stats().idle == 2 and pool.stats().problem is None)


@pytest.mark.filterwarnings("ignore::procjobs.PoolDegraded")
def test_template_that_is_killed_again_and_again_comes_back_and_no_job_is_lost(pool):
    killed = set()
    for n in range(6):
        template = wait_until(lambda: _find_other_template(pool, killed))
        killed.add(template.pid)
        template.kill()
        assert n == pool.submit(jobs.add, n).result(30)
    assert 3 == pool.submit(jobs.add, 1, 2).result(30)


def _find_other_template(pool, killed):
    try:
        template = find_template(pool)
    except (ValueError, psutil.Error):
        return None
    return template if template.pid not in killed else None


NO_FORK = """
import os, resource, sys, time, warnings
import procjobs, psutil
from tests.process import jobs
told = []
warnings.showwarning = lambda message, *_: told.append(str(message))
warnings.simplefilter("always", procjobs.PoolDegraded)
pool = procjobs.Pool(workers=1)
assert 3 == pool.submit(jobs.add, 1, 2).result(30)
supervisor, soft_and_hard = pool.stats().supervisor_pid, resource.getrlimit(resource.RLIMIT_NPROC)
children = {child.pid for child in psutil.Process(supervisor).children()}
(template,) = children - {worker.pid for worker in pool.workers()}
def refusals():
    with open(f"{pool._link.directory.path}/log") as log:
        return log.read().count("a worker could not be forked")
resource.prlimit(template, resource.RLIMIT_NPROC, (1, soft_and_hard[1]))
since = time.monotonic()
pool.submit(jobs.leave, 1).exception(30)
handles = [pool.submit(jobs.add, n) for n in range(10)]
while not told: time.sleep(0.01)  # job
print(told[0], flush=True)
while refusals() < 7: time.sleep(0.01)  # job
print(time.monotonic() - since, flush=True)
print(pool.stats().queued, pool.stats().problem, flush=True)
resource.prlimit(template, resource.RLIMIT_NPROC, soft_and_hard)
print([handle.result(30) for handle in handles], flush=True)
while pool.stats().problem: time.sleep(0.01)  # job
pool.stop()
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root and setpriv, to run a script as a user whom RLIMIT_NPROC binds (root is exempt)",
)
def test_host_that_refuses_to_fork_is_told_and_waited_for(tmp_path):
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    os.chown(runtime, 54321, 54321)
    # The interpreter may be in root's home: the script may read everything, but it is not root.
    become = ["--reuid=54321", "--regid=54321", "--clear-groups", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    script = subprocess.run(
        ["setpriv", *become, sys.executable, "-c", NO_FORK],
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    told, seconds, waiting, results = [*script.stdout.splitlines(), script.stderr, "", "", ""][:4]
    text = "a worker could not be forked: the host refuses another process; this user may have "
    assert (True, True, f"{list(range(10))}") == (text in told, waiting.startswith(f"10 {text}"), results), script.stderr
    assert float(seconds) >= 0.1 + 0.2 + 0.4  # before the fifth, the sixth and the seventh
