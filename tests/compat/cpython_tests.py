"""Finds CPython's own tests of executors, and gives them a Pool that is called as they call a ProcessPoolExecutor."""

import contextlib
import importlib
import multiprocessing
import sys
import types
import unittest
from unittest import mock

import procjobs

PACKAGE = "test.test_concurrent_futures"
FILES = ("executor", "test_as_completed", "test_process_pool", "test_shutdown", "test_wait")
"""The modules of the package that it is since 3.12; in 3.11 all is in one module."""


class PoolExecutor(procjobs.Pool):
    """A private Pool with the constructor of ProcessPoolExecutor, whose first parameter is not the pool's name."""

    def __init__(self, max_workers=None, mp_context=None, max_tasks_per_child=None, **settings):
        super().__init__(max_workers=max_workers, max_jobs_per_worker=max_tasks_per_child, **settings)


def find():
    """Return the classes of CPython's tests by name, and the modules they are in; None where they are not installed.

    Many distributions leave them out, or put them into a package of their own (Debian: libpython3.x-testsuite).
    """
    try:
        package = importlib.import_module(PACKAGE)
    except ModuleNotFoundError as error:
        if error.name not in {"test", PACKAGE}:
            raise
        return None
    modules = [package]
    if hasattr(package, "__path__"):
        for name in FILES:
            with contextlib.suppress(ModuleNotFoundError):
                modules.append(importlib.import_module(f"{PACKAGE}.{name}"))
    found = {}
    for module in modules:
        found.update({name: value for name, value in vars(module).items() if isinstance(value, type)})
    return types.SimpleNamespace(**found), modules


def take_authkey(key):
    """Let this worker use proxies of the test's multiprocessing.Manager."""
    multiprocessing.current_process().authkey = key


class PoolTestCase(unittest.TestCase):
    """What CPython's ExecutorMixin and BaseTestCase are for its executors; a child or a thread that is left is a failure."""

    executor_type = PoolExecutor
    worker_count = 5

    def setUp(self):
        from test import support
        from test.support import threading_helper

        super().setUp()
        self._support, self._threading_helper = support, threading_helper
        self._threads_before = threading_helper.threading_setup()
        support.environment_altered = False
        key = bytes(multiprocessing.current_process().authkey)
        self.executor = self.executor_type(self.worker_count, initializer=take_authkey, initargs=(key,))

    def tearDown(self):
        self.executor.shutdown(wait=True)
        self.executor = None
        self._support.reap_children()
        self._threading_helper.threading_cleanup(*self._threads_before)
        assert not self._support.environment_altered, "a child process or a thread is left"
        super().tearDown()

    def get_context(self):
        """Return where the tests take a Manager from; for the executor itself it is without meaning."""
        return multiprocessing.get_context("spawn")

    def run_scripts_with_pool(self, modules):
        """Have the scripts that CPython's tests run in other interpreters import PoolExecutor from here."""
        from test.support.script_helper import assert_python_ok

        def run(option, script):
            path = f"import sys; sys.path[:] = {sys.path!r}\n"
            script = script.replace("from concurrent.futures import", f"from {__name__} import")
            return assert_python_ok(option, path + script)

        for module in modules:
            if hasattr(module, "assert_python_ok"):
                patch = mock.patch.object(module, "assert_python_ok", run)
                patch.start()
                self.addCleanup(patch.stop)


def leave_out(reasons):
    """Return a decorator that skips the tests named in `reasons`, where this version of CPython has them."""

    def decorate(case):
        for name, reason in reasons.items():
            if hasattr(case, name):
                setattr(case, name, _skipped(name, reason))
        return case

    return decorate


def _skipped(name, reason):
    def skipped(self):
        self.skipTest(reason)

    skipped.__name__ = name
    return skipped
