"""Hosts that refuse something, as containers and hardened services do: jobs run, or one line says what is missing.

Each program below runs a job, one that leaves a process behind, one that kills its worker beside an innocent one, and ends
its pool; or it prints the error. In both cases nothing is left behind.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

from tests.filters import EAGAIN, ENOLCK, ENOSYS, EPERM, ROOT, needs_filter, run_without
from tests.waiting import wait_until

BODY = """if True:
    import os, sys, time, procjobs
    from tests.process import restricted_jobs as jobs
    try:
        pool = procjobs.Pool({name!r}, workers=2, store={store!r}).connect()
    except procjobs.ProcjobsError as error:
        print("refused:", error)
        sys.exit()
    assert 2 == pool.submit(jobs.add_one, 1).result(60)
    assert [2] * 200 == list(pool.map(jobs.add_one, [1] * 200))
    child = pool.submit(jobs.leave_child).result(60)
    innocent = pool.submit(jobs.wait_for_file, {go!r})
    assert isinstance(pool.submit(os._exit, 7).exception(60), procjobs.WorkerCrashed)
    open({go!r}, "w").close()
    assert "came" == innocent.result(60)
    large = bytes(3_000_000)
    assert large == pool.submit(jobs.echo, large).result(60)
    pool.stats(), pool.workers()
    with open(pool._link.directory.log) as log:
        print(log.read())
    pool.stop()
    deadline = time.monotonic() + 30
    while jobs.lives(child):
        assert time.monotonic() < deadline, "the process that a job has left behind lives"
        time.sleep(0.01)  # job
    print("all is well")
"""


@pytest.fixture
def place():
    """A directory for the files of pools, in `run`, and for others; in `run` there is nothing when the program has ended."""
    path = tempfile.mkdtemp(prefix="test-procjobs-", dir="/dev/shm")
    os.mkdir(f"{path}/run", 0o700)
    yield path
    try:  # a named pool whose first client failed ends when nobody comes for 10 s
        wait_until(lambda: not os.listdir(f"{path}/run"))
    finally:
        shutil.rmtree(path)


@pytest.fixture
def run(place):
    """Run the program above without some system calls, or behind `prefix`; return what it says."""

    def run(calls=(), error=EPERM, *, name=None, store=None, before="", prefix=(), **environment):
        body = BODY.format(name=name, store=store, go=f"{place}/go")
        environment = {"XDG_RUNTIME_DIR": f"{place}/run", **environment}
        done = run_without(calls, error, body, environment=environment, before=before, prefix=prefix)
        assert 0 == done.returncode, done.stdout + done.stderr
        return done.stdout

    return run


NAMESPACE = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rmpf", "--kill-child"]


def mounted(commands):
    """Return the beginning of a program in a mount namespace of its own, in which these commands have run."""
    prefix = [*NAMESPACE, "sh", "-c", f'{commands} && exec "$0" "$@"']
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this host does not let this user mount that")
    return prefix


REFUSALS = {
    "pidfd_open, old kernel": (["pidfd_open"], ENOSYS, "pidfd_open does not work here"),
    "pidfd_open, filter": (["pidfd_open"], EPERM, "pidfd_open does not work here (Operation not permitted)"),
    "memfd_create, old kernel": (["memfd_create"], ENOSYS, "memfd_create does not work here"),
    "memfd_create, filter": (["memfd_create"], EPERM, "memfd_create does not work here"),
    "setpriority": (["setpriority"], EPERM, "nice= has no effect"),
    "sched_setaffinity": (["sched_setaffinity"], EPERM, "affinity= has no effect"),
    "setsid": (["setsid"], EPERM, ""),
    "setsid and setpgid": (["setsid", "setpgid"], EPERM, ""),
    "mlock, ioprio_set": (["mlock", "ioprio_set"], EPERM, ""),
    "limits": (["setrlimit"], EPERM, ""),
    "close_range": (["close_range"], ENOSYS, ""),
    "fallocate": (["fallocate"], EPERM, ""),
    "all that has a substitute": (
        ["pidfd_open", "memfd_create", "setpriority", "sched_setaffinity", "setsid", "close_range"], EPERM, "pidfd_open does"
    ),
}  # fmt: skip


@needs_filter
@pytest.mark.parametrize("what", REFUSALS)
def test_job_runs_where_the_kernel_refuses(run, what):
    calls, error, line = REFUSALS[what]
    said = run(calls, error)
    assert "all is well" in said
    assert line in said


@needs_filter
@pytest.mark.parametrize("what", ["pidfd_open, filter", "all that has a substitute"])
def test_named_pool_runs_where_the_kernel_refuses(run, what, pool_name):
    calls, error, _ = REFUSALS[what]
    assert "all is well" in run(calls, error, name=pool_name)


FATAL = {
    "prctl": (["prctl"], EPERM, "the kernel refuses prctl(PR_SET_CHILD_SUBREAPER) (Operation not permitted)"),
    "flock": (["flock"], ENOLCK, "is on a file system without locks (flock: No locks available)"),
    "no other process": (["clone", "clone3", "fork", "vfork"], EAGAIN, "the host refuses another process; this user may"),
    "sendmsg": (["sendmsg"], EPERM, "this process cannot pass a descriptor to the supervisor: Operation not permitted"),
}


@needs_filter
@pytest.mark.parametrize("is_named", [True, False], ids=["named", "private"])
@pytest.mark.parametrize("what", FATAL)
def test_one_line_says_what_is_missing(run, what, is_named, pool_name):
    calls, error, line = FATAL[what]
    said = run(calls, error, name=pool_name if is_named else None)
    check_refusal(said, line)


def check_refusal(said, *lines):
    assert said.startswith("refused: ")
    assert said.count("\n") <= 2
    assert "Traceback" not in said
    for line in lines:
        assert line in said


LIMITS = {
    "size of files": ("RLIMIT_FSIZE", 2**20, "a file may have no more than 1.0 MiB, and the pool's table needs 69."),
    "address space": ("RLIMIT_AS", 90 * 2**20, "(ulimit -v, LimitAS=)"),
    "open files": ("RLIMIT_NOFILE", 8, "a process may open no more than 8 files: raise the limit (ulimit -n"),
}


@pytest.mark.parametrize("what", LIMITS)
def test_one_line_says_which_limit_is_too_low(run, what):
    kind, value, line = LIMITS[what]
    said = run(before=f"import procjobs, resource; resource.setrlimit(resource.{kind}, ({value}, {value}))")
    check_refusal(said, line)


def test_pool_runs_with_few_open_files(run):
    assert "all is well" in run(before="import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))")


def test_pool_has_as_many_workers_as_there_are_open_files_for(place):
    body = """if True:
        import procjobs, resource, time, warnings
        warnings.simplefilter("ignore")
        resource.setrlimit(resource.RLIMIT_NOFILE, (44, 44))
        pool = procjobs.Pool(workers=4)
        jobs = [pool.submit(abs, -3) for _ in range(100)]
        assert [3] * 100 == [job.result(60) for job in jobs]  # fewer workers than were asked for
        pool.stop()
    """
    done = run_without([], 0, body, environment={"XDG_RUNTIME_DIR": f"{place}/run"})
    assert (0, "") == (done.returncode, done.stderr)


MOUNTS = {
    "/proc without what is not about processes": ("mount -t proc -o subset=pid proc /proc", "/proc/stat does not work"),
    "/proc with the user's own processes": ("mount -t proc -o hidepid=2 proc /proc", ""),
    "an empty /proc": ("mount -t tmpfs tmpfs /proc", "/proc does not work here"),
    "no /sys": ("mount -t tmpfs tmpfs /sys", ""),
    "read-only /tmp": ("mount -t tmpfs -o ro tmpfs /tmp", ""),
    "no control groups": ("mount -t tmpfs tmpfs /sys/fs/cgroup", ""),
}


@pytest.mark.parametrize("what", MOUNTS)
def test_job_runs_with(what, run):
    commands, line = MOUNTS[what]
    said = run(prefix=mounted(commands))
    assert line in said


DOCTOR = """if True:
    import json, procjobs.cli, sys
    sys.argv = ["procjobs", "doctor", "--json"]
    procjobs.cli.main()
"""


@pytest.fixture
def doctor(place):
    """Run `procjobs doctor` on a host that lacks something; return the findings that are not good, as text."""
    pytest.importorskip("click")

    def doctor(calls=(), error=EPERM, *, before="", prefix=(), **environment):
        environment = {"XDG_RUNTIME_DIR": f"{place}/run", **environment}
        done = run_without(calls, error, DOCTOR, environment=environment, before=before, prefix=prefix)
        findings = json.loads(done.stdout)["checks"]
        return "".join(f"{f['verdict']} {f['detail']}: {f['advice']}\n" for f in findings if f["verdict"] != "ok")

    return doctor


@needs_filter
def test_doctor_finds_what_the_kernel_refuses(doctor):
    found = doctor(["pidfd_open", "memfd_create", "setpriority", "sched_setaffinity", "sendmsg", "prctl", "flock"])
    for name in ("pidfd_open", "memfd_create", "setpriority", "sched_setaffinity"):
        assert f"warn {name}: Operation not permitted" in found
    for name in ("sendmsg", "subreaper"):
        assert f"fail {name}: " in found
    assert "is on a file system without locks" in found
    assert "seccomp profile" in found


def test_doctor_finds_low_limits(doctor):
    found = doctor(before="import resource as r; [r.setrlimit(k, (40, 40)) for k in (r.RLIMIT_NOFILE, r.RLIMIT_FSIZE)]")
    assert "fail open files: at most 40" in found
    assert "fail bytes of a file: at most 40" in found


def test_doctor_finds_that_there_is_no_home(doctor):
    assert "XDG_STATE_HOME" in doctor(HOME="/nonexistent", XDG_STATE_HOME="")


@pytest.mark.parametrize(
    ("commands", "line"),
    [
        ("mount -t proc -o subset=pid proc /proc", "warn /proc/stat: "),
        ("mount -t tmpfs tmpfs /proc", "warn /proc: "),
        ("mount -t tmpfs -o size=1m tmpfs /dev/shm", "free in /dev/shm/procjobs-"),
    ],
)
def test_doctor_finds_what_is_not_mounted_as_it_should_be(doctor, commands, line):
    runtime = {"XDG_RUNTIME_DIR": ""} if "/dev/shm" in commands else {}
    assert line in doctor(prefix=mounted(commands), **runtime)


def test_full_file_system_is_told_with_the_room_and_the_remedy(run):
    said = run(prefix=mounted("mount -t tmpfs -o size=512k tmpfs /dev/shm"), XDG_RUNTIME_DIR="")
    check_refusal(said, "/dev/shm", "of 0.5 MiB free, and a pool needs 1.5 MiB there", "--shm-size")


def test_full_file_system_leaves_nothing_behind(place):
    prefix = mounted("mount -t tmpfs -o size=64k tmpfs /dev/shm && head -c 64k /dev/zero > /dev/shm/full; true")
    body = """if True:
        import os, procjobs
        for name in ("media", None):
            try:
                procjobs.Pool(name, workers=1).connect()
            except procjobs.SupervisorError as error:
                assert "/dev/shm" in str(error) and "Traceback" not in str(error), error
                assert "0.0 MiB of 0.1 MiB free" in str(error), error
        assert ["full"] == os.listdir("/dev/shm"), os.listdir("/dev/shm")
    """
    done = run_without([], 0, body, environment={"XDG_RUNTIME_DIR": ""}, prefix=prefix)
    assert (0, "") == (done.returncode, done.stderr)


def test_read_only_root_needs_no_temporary_directory(run, place):
    readonly = (
        "mount --bind / /mnt && mount -o remount,ro,bind /mnt && mount --rbind /dev /mnt/dev && "
        "mount --rbind /proc /mnt/proc"
    )
    prefix = mounted(readonly)
    prefix[-1] = f'{readonly} && exec chroot /mnt sh -c \'cd "{ROOT}" && exec "$0" "$@"\' "$0" "$@"'
    assert "all is well" in run(prefix=prefix, XDG_RUNTIME_DIR="", PYTHONDONTWRITEBYTECODE="1")


USER = 123456  # no database of users knows it
BECOME = f"import os; os.setgroups([2000]); os.setgid({USER}); os.setuid({USER})"


@pytest.fixture
def run_as_user():
    """Run a program as another user, with an interpreter that this one may read."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    packages = os.pathsep.join([str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))])

    def run(body, **environment):
        environment = {"PYTHONPATH": packages, "PYTHONDONTWRITEBYTECODE": "1", **environment}
        return run_without([], 0, body, before=BECOME, environment=environment, executable=executable)

    for executable in (sys.executable, "/usr/bin/python3"):
        if shutil.which(executable) and not run("import procjobs, sqlalchemy, psutil, sys, typing").returncode:
            return run
    pytest.skip("another user may not read this interpreter and its packages")


@pytest.mark.parametrize("home", [None, "", "/nonexistent", "~"])
def test_user_without_a_home_leaves_nothing_in_the_working_directory(place, home, run_as_user):
    work = f"{place}/work"
    os.mkdir(work)
    for path in (place, work):
        os.chmod(path, 0o777)
    body = f"""if True:
        import os, procjobs
        os.chdir({work!r})
        if {home is None}:
            del os.environ["HOME"]
        with procjobs.Pool("homeless", workers=1) as pool:
            assert 3 == pool.submit(abs, -3).result(60)
            pool.stop()
        try:
            procjobs.Pool("homeless", workers=1, store=True)
        except procjobs.ConfigurationError as error:
            assert "XDG_STATE_HOME" in str(error), error
        else:
            raise AssertionError("a store nowhere")
        assert [] == os.listdir()
    """
    done = run_as_user(body, XDG_RUNTIME_DIR="", XDG_STATE_HOME="", HOME=home or "")
    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o2775])
def test_volume_of_roots_serves_another_user(place, mode, run_as_user):
    volume = f"{place}/volume"
    os.mkdir(volume)
    os.chown(volume, 0, 2000)
    os.chmod(volume, mode)
    os.chmod(place, 0o755)
    body = f"""if True:
        import os, procjobs
        with procjobs.Pool("pod", workers=1) as pool, procjobs.Pool("pod", workers=1) as other:
            assert os.getuid() == pool.submit(os.getuid).result(60) == other.submit(os.getuid).result(60)
            assert ["procjobs-{USER}"] == os.listdir({volume!r})
            pool.stop()
        assert [] == os.listdir({volume!r})
    """
    done = run_as_user(body, XDG_RUNTIME_DIR=volume, XDG_STATE_HOME="", HOME="")
    assert (0, "") == (done.returncode, done.stderr)
