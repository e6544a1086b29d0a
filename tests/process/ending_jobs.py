"""Jobs and finalizers for the ends of workers."""

from __future__ import annotations

import atexit
import os
import time
import weakref

from tests.process.ending_preload import Thing, tell

kept = []


def register(number):
    """Have something called at the end of this worker."""
    kept.append(Thing())
    atexit.register(tell, f"atexit of job {number}")
    weakref.finalize(kept[-1], tell, f"weak finalizer of job {number}")
    return os.getpid()


def finalize():
    tell(f"finalizer {os.getpid()}")


def finalize_badly():
    tell("finalizer that fails")
    raise ValueError("the meter is stuck")


def finalize_for_ever():
    tell("finalizer that hangs")
    time.sleep(600)  # job


def exit_in_the_middle():
    raise SystemExit(3)
