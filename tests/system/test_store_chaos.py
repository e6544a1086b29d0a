"""benchmarks/store_chaos.py in short: the code as it is keeps its promises, and a mutant of it is caught."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "store_chaos.py"
ROLES = {"supervisor", "recorder", "worker", "template", "client"}


def run_chaos(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=280, check=False,
    )  # fmt: skip


@pytest.mark.timeout(300)
def test_no_promise_is_broken_by_kills_between_any_two_steps():
    done = run_chaos("--rounds", "5")
    assert 0 == done.returncode, done.stdout
    result = json.loads(done.stdout)
    assert result["answered"]
    # Every kind of process runs on the faulty build: some of its points were passed.
    listed = run_chaos("--list").stdout
    points = {words[0] for line in listed.splitlines() if len(words := line.split()) == 3 and "." in words[0]}
    assert ROLES == {point.partition(".")[0] for point in points - set(result["points never passed"])}


@pytest.mark.timeout(300)
def test_a_mutant_that_does_not_count_begun_runs_is_caught():
    done = run_chaos("--mutant", "begun-not-counted", "--minutes", "4")
    assert 0 == done.returncode, done.stdout
    assert "an attempt begun twice" in done.stdout
