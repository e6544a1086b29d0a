"""Preloaded by a template: dies on import and around forks when the trap is armed that the environment names."""

from __future__ import annotations

import os

from tests.process.deadly import Trap

TRAP = Trap(os.environ.get("PROCJOBS_TEST_TRAP", "/nowhere"))
TEMPLATE = os.getpid()


def _before():
    TRAP.spring("fork in the template" if os.getpid() == TEMPLATE else "fork in the process between")


def _after_in_child():
    if os.getppid() != TEMPLATE:
        TRAP.spring("fork in the worker")


TRAP.spring("preload")
os.register_at_fork(before=_before, after_in_child=_after_in_child)
