"""The job of store_chaos.py. Each run writes a line into the ledger before its work, and another one after it."""

import os
import signal
import time

from procjobs._faults import note

import procjobs


class PlannedFailure(Exception):
    """The failure of an attempt that is to fail."""


def work(token, name, seconds, failures):
    """Run for some seconds; fail in the first attempts."""
    job = procjobs.current_job()
    about = job.id, job.attempt, os.getpid(), token, name
    note("began", *about)
    if name == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(seconds)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if job.attempt <= failures:
        note("raised", *about)
        raise PlannedFailure(token)
    note("ended", *about)
    return token
