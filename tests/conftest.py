"""Fixtures for all tests; the most important one proves that a test with processes leaves nothing behind."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import tempfile
import threading
import uuid

import psutil
import pytest
from hypothesis import settings

import procjobs
from procjobs.host import rundir, signature

from .waiting import wait_until

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell does that to what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

_side = os.environ.get("PYTEST_XDIST_WORKER", "alone")
if os.environ.get("PROCJOBS_TEST_SIDE") != _side:  # not in a program that a test starts
    # Whatever the shell has set. Tests run side by side: no pool of one may sweep up what another one looks at.
    os.environ["PROCJOBS_TEST_SIDE"] = _side
    _directory = tempfile.TemporaryDirectory(prefix="procjobs-tests-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    os.chmod(_directory.name, 0o755)  # another user's process must get as far as the socket, to be refused there
    os.environ["XDG_RUNTIME_DIR"] = _directory.name

# What pools took is remembered in the user's home, and tests leave nothing there. Programs that they start inherit this.
_state = tempfile.TemporaryDirectory(prefix="procjobs-state-")
os.environ["XDG_STATE_HOME"] = _state.name

# No test depends on speed. In CI, too, new examples are tried each time.
settings.register_profile("procjobs", settings.get_profile("default"), deadline=None)
settings.load_profile("procjobs")

RUN = os.environ["PROCJOBS_TEST_RUN"] = uuid.uuid4().hex


def _descriptors():
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{fd}")
            if "/proc/" not in target:
                found[fd] = target
    return found


def _own_entries(base):
    if not os.path.isdir(base):  # the last pool takes the empty base along
        return set()
    return {name for name in os.listdir(base) if name.startswith((f"private-{os.getpid()}-", f"test-{os.getpid()}-"))}


_OF_A_BROWSER = {"chromium", "chrome_crashpad_handler"}
"""Processes that the browser of all tests starts and ends as it likes; it is ended with the run."""


def _children():
    found = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, which has no command line, is one of them
            if "resource_tracker" not in _command(child) and child.name() not in _OF_A_BROWSER:
                found.add(child)
    return found


def _command(process):
    try:
        return " ".join(process.cmdline())
    except psutil.ZombieProcess:
        return ""


def _pool_processes():
    """Return the pids of everything that was started, however indirectly, by this test run."""
    found = set()
    for other in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if other.pid != os.getpid() and other.environ().get("PROCJOBS_TEST_RUN") == RUN:
                found.add(other.pid)
    return found


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each worker tests that stand together, and share servers; one that has done its own takes those of others."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


def pytest_collection_finish():
    """Leave all that is imported and collected out of the collections of garbage, of which each test makes one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def no_base_is_left_behind():
    """Remove empty base directories at the end: tests ask for one, which makes it, when the last pool has taken it along."""
    yield
    for base in rundir.existing_bases():
        signature.remove_if_empty(base)


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request):
    """Check that the test left no child, zombie, descriptor, shared-memory file or thread."""
    if "unit" in request.path.parts:
        yield
        return
    base = rundir.find_base()
    before = _descriptors()
    children = _children()
    processes = _pool_processes()
    threads = set(threading.enumerate())
    yield
    for name in [name for name in sys.modules if name.startswith("code_")]:  # tests.process.witnesses.Code
        del sys.modules[name]
    gc.collect()
    assert set() == _children() - children  # those that a test has left that failed are its own fault only
    wait_until(lambda: _pool_processes() <= processes, timeout=10, dump=lambda: str(_pool_processes()))
    wait_until(lambda: not _own_entries(base), timeout=10, dump=lambda: str(_own_entries(base)))
    assert set() == {t for t in threading.enumerate() if t not in threads and "procjobs" in t.name}
    assert {} == {fd: target for fd, target in _descriptors().items() if fd not in before}


@pytest.fixture
def pool_settings():
    """The settings of `pool` beyond the number of its workers; modules of tests have their own."""
    return {}


@pytest.fixture
def pool(pool_settings):
    """A private pool with two workers; it is stopped, not awaited, so that a test that fails does not hang."""
    pool = procjobs.Pool(**{"workers": 2, **pool_settings})
    yield pool
    pool.stop()


@pytest.fixture
def pool_name():
    """A fresh name of a named pool, which is stopped after the test."""
    name = f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    yield name
    directory = rundir.RunDir(rundir.find_base(), name)
    if os.path.exists(directory.lock):
        with contextlib.suppress(procjobs.ProcjobsError):
            procjobs.Pool(name).stop()
