"""What a client submits runs the code and the environment that this client has, whatever the pool was started with."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import textwrap
import threading
import warnings

import psutil
import pytest

import procjobs
from procjobs.client.running_pool import RunningPool
from procjobs.host import rundir
from tests.process import jobs
from tests.process.witnesses import call

from ..conftest import wait_until

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))


class Application:
    """A folder with an application's modules, and processes that submit its jobs, as before and after a deploy."""

    def __init__(self, folder, pool_name):
        folder.mkdir(exist_ok=True)
        self.folder, self.pool_name = folder, pool_name
        self._writes = 0

    def write(self, name, text):
        # Another size each time: Python takes a cached .pyc for current that is as old and as large.
        self._writes += 1
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text) + f"#{'.' * self._writes}\n")

    def command(self, program, flags=()):
        return [sys.executable, *flags, "-W", "always", "-c", textwrap.dedent(program), self.pool_name]

    def environment(self, **variables):
        path = os.pathsep.join([str(self.folder), PROJECT])
        return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **variables}

    def run(self, program, flags=(), **variables):
        """Run a program to its end; return the JSON that it printed, and its warnings."""
        ran = subprocess.run(
            self.command(program, flags), env=self.environment(**variables), capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert 0 == ran.returncode, ran.stderr
        return json.loads(ran.stdout), ran.stderr

    @contextlib.contextmanager
    def running(self, program, **variables):
        """Run a program beside the test: yield a function that has it print the next JSON, by a line to its input."""
        process = subprocess.Popen(
            self.command(program), env=self.environment(**variables), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

        def ask(line=""):
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            assert answer, process.stderr.read()
            return json.loads(answer)

        with process:
            try:
                yield ask
            finally:
                process.stdin.close()
                process.wait(60)


@pytest.fixture
def application(tmp_path, pool_name):
    found = Application(tmp_path / "app", pool_name)
    found.write("helper.py", "WHAT = 'h1'")
    found.write("films.py", "import helper\ndef version(): return 'v1', helper.WHAT")
    return found


ONE_JOB = """
import json, sys, films, procjobs
pool = procjobs.Pool(sys.argv[1], workers=1, linger=60)
print(json.dumps(pool.submit(films.version).result(30)))
"""
JOB_BY_JOB = """
import json, sys, films, procjobs
pool = procjobs.Pool(sys.argv[1], workers=2, linger=60)
for line in sys.stdin:
    print(json.dumps(pool.submit(films.version).result(30)), flush=True)
"""


def generations(pool_name):
    """Return how many templates a pool has: one for each generation. This process brings it no code."""
    with RunningPool(procjobs.Pool(pool_name)._directory) as pool:
        supervisor = psutil.Process(pool.stats().supervisor_pid)
    count = 0
    for child in supervisor.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            count += child.name() == "procjobs-templ"
    return count


def test_restart_with_changed_code_runs_it_without_preload(application):
    assert ["v1", "h1"] == application.run(ONE_JOB)[0]
    application.write("films.py", "import helper\ndef version(): return 'v2', helper.WHAT")
    assert ["v2", "h1"] == application.run(ONE_JOB)[0]
    application.write("helper.py", "WHAT = 'h2'")
    assert ["v2", "h2"] == application.run(ONE_JOB)[0]


def test_file_of_the_same_size_and_time_is_another_one(application):
    path = application.folder / "films.py"
    application.run(ONE_JOB)
    before = path.stat()
    path.write_text(path.read_text().replace("v1", "v2"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ["v2", "h1"] == application.run(ONE_JOB)[0]


@pytest.mark.parametrize("helper", ["beside.py", "shop/prices.py"], ids=["beside it", "of its package"])
def test_changed_module_that_only_the_job_imports(application, helper):
    name = helper.removesuffix(".py").replace("/", ".")
    application.write("shop/__init__.py", "")
    application.write("shop/jobs.py", f"def version():\n    import {name} as found\n    return found.WHAT")
    program = ONE_JOB.replace("films.version", "shop.jobs.version").replace("films", "shop.jobs, films")
    application.write(helper, "WHAT = 'one'")
    assert "one" == application.run(program)[0]
    application.write(helper, "WHAT = 'two'")
    assert "two" == application.run(program)[0]


def test_function_that_the_code_before_did_not_have(application):
    application.run(ONE_JOB)
    application.write("films.py", "def burn(): return 'burnt'")
    assert "burnt" == application.run(ONE_JOB.replace("version", "burn"))[0]


def test_processes_of_one_deploy_share_workers_whatever_they_have_loaded(application):
    application.write("other.py", "def version(): return 'o1'")
    with application.running(JOB_BY_JOB) as one, application.running(JOB_BY_JOB.replace("films", "other")) as two:
        assert (["v1", "h1"], "o1") == (one(), two())
        assert 1 == generations(application.pool_name)


def test_old_and_new_web_workers_side_by_side(application):
    with application.running(JOB_BY_JOB.replace('linger=60', 'linger=60, preload=["films"]')) as old:
        assert ["v1", "h1"] == old()
        application.write("films.py", "import helper\ndef version(): return 'v2', helper.WHAT")
        with application.running(JOB_BY_JOB.replace('linger=60', 'linger=60, preload=["films"]')) as new:
            assert [["v2", "h1"], ["v1", "h1"], ["v2", "h1"]] == [new(), old(), new()]
        assert ["v1", "h1"] == old()


def test_two_deploys_in_two_folders(application, tmp_path, pool_name):
    other = Application(tmp_path / "other", pool_name)
    other.write("helper.py", "WHAT = 'h2'")
    other.write("films.py", "import helper\ndef version(): return 'v2', helper.WHAT")
    with application.running(JOB_BY_JOB) as one, other.running(JOB_BY_JOB) as two:
        assert [["v1", "h1"], ["v2", "h2"]] * 2 == [one(), two(), one(), two()]


def test_link_that_a_deploy_turns(application, tmp_path, pool_name):
    other = Application(tmp_path / "two", pool_name)
    other.write("films.py", "def version(): return 'v2', ''")
    current = Application(tmp_path / "app", pool_name)
    current.folder = tmp_path / "current"
    current.folder.symlink_to(application.folder)
    program = JOB_BY_JOB.replace("for line", "print('0', flush=True)\nfor line")
    with current.running(program) as old:
        assert 0 == old()
        current.folder.unlink()
        current.folder.symlink_to(other.folder)
        with current.running(JOB_BY_JOB) as new:
            assert ["v2", ""] == new()
            assert ["v1", "h1"] == old()


def test_old_generations_end_with_their_clients_and_jobs(application):
    for n in range(4):
        application.write("films.py", f"def version(): return {n}")
        assert n == application.run(ONE_JOB)[0]
    wait_until(lambda: 1 == generations(application.pool_name))


LEAVES_A_JOB = """
import json, os, sys, films, procjobs
pool = procjobs.Pool(sys.argv[1], workers=8, linger=60)
job = pool.submit(films.wait, os.environ["BEGUN"])
while not os.path.exists(os.environ["BEGUN"]): pass
print(json.dumps(job.id), flush=True)
os._exit(0)
"""


def test_autoreload_does_not_pile_up_generations(application, tmp_path):
    go = tmp_path / "go"
    ids = []
    for n in range(7):
        text = f"open(begun, 'w').close()\n    jobs.wait_for_file({str(go)!r})\n    return {n}"
        application.write("films.py", f"from tests.process import jobs\ndef wait(begun):\n    {text}")
        ids.append(application.run(LEAVES_A_JOB, BEGUN=str(tmp_path / f"begun-{n}"))[0])
    with procjobs.Pool(application.pool_name) as pool:
        wait_until(lambda: generations(application.pool_name) <= 6)  # three that are left, the newest, this process's own
        go.touch()
        assert list(range(7)) == [pool.job(job_id).result(30) for job_id in ids]


def test_more_versions_than_a_pool_loads_are_told(application):
    with contextlib.ExitStack() as stack:
        for n in range(9):
            application.write("films.py", f"def version(): return {n}")
            if n < 8:
                assert n == stack.enter_context(application.running(JOB_BY_JOB))()
        _, told = application.run(ONE_JOB)
        assert "CodeDiffers" in told
        assert "films.py" in told
        assert "reload()" in told


def test_version_of_the_user_stands_for_all_files(application):
    program = ONE_JOB.replace("linger=60", "linger=60, version='3'")
    assert ["v1", "h1"] == application.run(program)[0]
    application.write("films.py", "def version(): return 'v2'")
    assert ["v1", "h1"] == application.run(program)[0]
    assert "v2" == application.run(program.replace("'3'", "'4'"))[0]


def test_name_that_the_running_code_does_not_have_is_told_with_what_to_do(application):
    program = ONE_JOB.replace("linger=60", "linger=60, version='3'")
    application.run(program)
    application.write("films.py", "def burn(): return 'burnt'")
    burn = program.replace("pool.submit(films.version).result(30)", "str(pool.submit(films.burn).exception(30))")
    told = application.run(burn)[0]
    assert "Can't get attribute 'burn'" in told
    assert "reload() has all jobs run the files as they are now" in told


# In one process ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def warnings_about(code):
    """Collect the warnings that name a module; files of other tests may have changed, too."""
    told = []

    def collect(message, category, *_):
        if f"{code.name}.py" in str(message):
            told.append((category, str(message)))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = collect
        yield told


def test_module_that_was_edited_and_loaded_again(code):
    module = importlib.import_module(code.name)
    with procjobs.Pool(workers=1) as pool:
        assert "one" == pool.submit(module.version).result(30)
        code.write("two", "def burn(): return 'burnt'")
        importlib.reload(module)
        assert "burnt" == pool.submit(module.burn).result(30)
        assert "two" == pool.submit(module.version).result(30)


def test_module_that_is_loaded_after_the_pool_was_made(code, pool_name):
    with procjobs.Pool(pool_name, workers=1) as pool:
        assert "one" == pool.submit(call, code.name, "version").result(30)  # the worker has it before this process
        code.write("two")
        module = importlib.import_module(code.name)
        assert "two" == pool.submit(module.version).result(30)


def test_file_that_changes_while_the_template_starts_is_told(code, tmp_path):
    slow = tmp_path / "site" / "slow_to_load.py"
    begun, go = tmp_path / "begun", tmp_path / "go"
    slow.write_text(
        f"import os, time\nopen({str(begun)!r}, 'w').close()\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"  # job
    )
    importlib.import_module(code.name)
    with warnings_about(code) as told, procjobs.Pool(workers=1, preload=["slow_to_load"]) as pool:
        pool.submit(jobs.add, 1)
        wait_until(begun.exists)
        code.write("two")
        go.touch()
        (category, text) = wait_until(lambda: told)[0]
    assert procjobs.CodeDiffers is category
    assert "changed after this process had loaded it" in text
    assert "reload()" in text


def test_file_that_changes_before_a_later_worker_imports_it_is_told(code):
    module = importlib.import_module(code.name)
    with warnings_about(code) as told, procjobs.Pool(workers=1, max_jobs_per_worker=1) as pool:
        assert "one" == pool.submit(module.version).result(30)
        code.write("two")
        assert "two" == pool.submit(module.version).result(30)  # nobody has the old file any more
        wait_until(lambda: told)
        assert "two" == pool.submit(module.version).result(30)
    assert [procjobs.CodeDiffers] == [category for category, _ in told]


def test_worker_tells_of_files_that_no_client_has_loaded(code, pool_name):
    with procjobs.Pool(pool_name, workers=1) as pool:
        assert "one" == pool.submit(call, code.name, "version").result(30)
        code.write("two")
        os.utime(code.path, (0, 0))
        module = importlib.import_module(code.name)
        assert "two" == pool.submit(module.version).result(30)


def test_threads_that_submit_while_modules_are_loaded(code, tmp_path):
    names = [f"loaded_{n}" for n in range(30)]
    for name in names:
        (tmp_path / "site" / f"{name}.py").write_text(f"def job(): return {name!r}")
    with procjobs.Pool(workers=2) as pool:
        answers = {}

        def submit(name):
            answers[name] = pool.submit(importlib.import_module(name).job).result(30)

        threads = [threading.Thread(target=submit, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert {name: name for name in names} == answers


def test_broken_preload_heals_when_it_is_mended(code):
    code.write("broken", "raise RuntimeError('no licence')")
    with pytest.warns(procjobs.PoolDegraded, match="no licence"):
        pool = procjobs.Pool(workers=1, preload=[code.name])
        waiting = pool.submit(call, code.name, "version")
        wait_until(lambda: pool.stats().problem)
        pool.pause()  # with its reply the warning has come, which was sent before
        pool.resume()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", procjobs.CodeDiffers)  # it is not the file that the pool began with
        code.write("two")
        assert "two" == waiting.result(60)
        wait_until(lambda: pool.stats().problem is None)
        pool.shutdown()


# The environment --------------------------------------------------------------------------------------------------

ENVIRONMENT = """
import json, os, sys, procjobs
def look(): return {name: os.environ.get(name) for name in ("DATABASE_URL", "STRIPE_KEY", "SHLVL")}
pool = procjobs.Pool(sys.argv[1], workers=1, linger=60)
if "reload" in os.environ: pool.reload()
print(json.dumps(pool.submit(look).result(30)))
"""


def test_variables_that_count_are_those_of_the_client(application):
    assert "old" == application.run(ENVIRONMENT, DATABASE_URL="old")[0]["DATABASE_URL"]
    answer, told = application.run(ENVIRONMENT, DATABASE_URL="new", SHLVL="7")
    assert "new" == answer["DATABASE_URL"]
    assert "CodeDiffers" not in told


def test_other_variables_that_differ_are_told_by_name(application):
    application.run(ENVIRONMENT, STRIPE_KEY="sk_old")
    answer, told = application.run(ENVIRONMENT, STRIPE_KEY="sk_new", SHLVL="7")
    assert "sk_old" == answer["STRIPE_KEY"]
    assert "CodeDiffers" in told
    assert "STRIPE_KEY" in told
    assert "reload()" in told
    assert "sk_" not in told
    assert "SHLVL" not in told


def test_variables_that_the_user_names_count(application):
    program = ENVIRONMENT.replace("linger=60", "linger=60, environment=['STRIPE_*']")
    assert "old" == application.run(program, STRIPE_KEY="old")[0]["STRIPE_KEY"]
    assert "new" == application.run(program, STRIPE_KEY="new")[0]["STRIPE_KEY"]


def test_reload_takes_the_environment_of_its_caller(application):
    loop = ENVIRONMENT.replace("print", "\nfor line in sys.stdin: print").replace("30)))", "30)), flush=True)")
    with application.running(loop, STRIPE_KEY="old") as other:
        assert "old" == other()["STRIPE_KEY"]
        answer, _ = application.run(ENVIRONMENT, STRIPE_KEY="new", reload="yes")
        assert "new" == answer["STRIPE_KEY"]
        assert "new" == other()["STRIPE_KEY"]  # for everybody


def test_reload_of_the_command_line_keeps_the_environment(application):
    application.run(ENVIRONMENT, STRIPE_KEY="old")
    command = [sys.executable, "-m", "procjobs", "reload", application.pool_name]
    subprocess.run(command, check=True, capture_output=True)
    assert "old" == application.run(ENVIRONMENT, STRIPE_KEY="old")[0]["STRIPE_KEY"]


FLAGS = """
import json, sys, procjobs
def look(): return [sys.flags.optimize, sys.flags.utf8_mode, sys.flags.dev_mode, sys.flags.isolated, sys.warnoptions]
pool = procjobs.Pool(workers=1)
print(json.dumps([look(), pool.submit(look).result(30)]))
pool.shutdown()
"""


FLAG_LISTS = [[], ["-O"], ["-OO"], ["-X", "utf8"], ["-W", "error::BytesWarning"], ["-X", "dev"], ["-b"]]


@pytest.mark.parametrize("flags", FLAG_LISTS, ids=" ".join)
def test_workers_have_the_flags_of_the_program(application, flags):
    (here, there), _ = application.run(FLAGS, flags)
    assert here == there


def test_supervisor_is_told_which_generation_begins_and_why(application):
    application.run(ONE_JOB)
    application.write("films.py", "def version(): return 'v2'")
    application.run(ONE_JOB)
    with open(rundir.RunDir(rundir.find_base(), application.pool_name).log) as file:
        assert "generation 2 begins beside 1, since a process has another films.py" in file.read()
