"""benchmarks/run.py in short: every participant has numbers or a reason, and the run can be shown again from its file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numpy")
pytest.importorskip("rich")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "run.py"


@pytest.mark.timeout(180)
def test_every_participant_has_numbers_or_a_reason(tmp_path):
    kept = tmp_path / "run.json"
    only = [part for name in ("roundtrip", "progress") for part in ("--only", name)]
    command = [sys.executable, str(SCRIPT), "--quick", *only, "--json", str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    measures = json.loads(kept.read_text())["measures"]
    assert {"roundtrip", "progress"} == measures.keys()
    for measured in measures.values():
        assert measured["results"]["procjobs"]
        for participant in measured["raw"]:
            assert participant in measured["results"] or measured["missing"][participant], done.stdout
            assert participant in done.stdout or participant.split()[0] in done.stdout
