"""A copy of the package with a change, for programs that tests start."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import procjobs

ROOT = Path(__file__).parents[1]


def make_build(directory, file, old, new):
    """Copy the package into a directory, replace a text in one of its files, and return the environment that uses it.

    Programs can import the tests too.
    """
    shutil.copytree(Path(procjobs.__file__).parent, directory / "procjobs", ignore=shutil.ignore_patterns("__pycache__"))
    changed = directory / "procjobs" / file
    text = changed.read_text()
    assert 1 == text.count(old)
    changed.write_text(text.replace(old, new))
    return {**os.environ, "PYTHONPATH": f"{directory}:{ROOT}"}
