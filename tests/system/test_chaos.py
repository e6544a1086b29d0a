"""benchmarks/chaos.py in short: random kills; each handle gets an answer, no job runs too often, nothing is left."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numpy")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "chaos.py"
SEED = "909"
"""With this seed every kind of process is killed at least once in the short time."""


def test_random_kills_lose_no_job_and_leave_nothing_behind():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--minutes", "0.11", "--seed", SEED, "--patience", "40"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        check=False,
    )
    assert 0 == done.returncode, done.stdout
