"""Jobs for hosts that refuse something. Nothing here needs /proc."""

from __future__ import annotations

import os
import subprocess
import time


def add_one(n):
    return n + 1


def echo(value):
    return value


def leave_child():
    return subprocess.Popen(["sleep", "600"]).pid


def wait_for_file(path):
    while not os.path.exists(path):
        time.sleep(0.005)  # job
    return "came"


def lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
