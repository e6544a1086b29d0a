"""benchmarks/chaos.py in short: whatever is killed, each handle is answered, no job runs too often, nothing is left."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numpy")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "chaos.py"
SEED = "909"
"""With this one everything is killed at least once in the seconds that there are."""


def test_nothing_is_lost_or_left_whatever_is_killed():
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
