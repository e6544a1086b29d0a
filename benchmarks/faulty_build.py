"""A build of procjobs in which processes are stopped and killed between any two steps, and in which promises are broken.

The package is copied, and edited by exact text: at each fault point (fault_points.py) a call is inserted that reads from a
shared file what is to be done there, and a mutant (mutants.py) replaces some lines. Programs run on it by PYTHONPATH.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import procjobs

HERE = Path(__file__).resolve().parent
SOURCE = Path(procjobs.__file__).parent
RUNTIME = "_faults"


class BadAnchor(Exception):
    """An anchor is not in the source exactly once: the code there has moved."""


class Edit(NamedTuple):
    """Replaces a text of a file, which must be there exactly once."""

    file: str
    old: str
    new: str

    def apply(self, text):
        if text.count(self.old) != 1:
            raise BadAnchor(f"{self.file} has this {text.count(self.old)} times, not once:\n{self.old}")
        return text.replace(self.old, self.new)


class Point(NamedTuple):
    """A fault point: before the lines of an anchor, or after them, with the indentation of its first line."""

    name: str
    file: str
    anchor: str
    is_after: bool = False

    @property
    def role(self):
        """The kind of process that passes it."""
        return self.name.partition(".")[0]

    def apply(self, text, number):
        if text.count(self.anchor) != 1:
            raise BadAnchor(f"{self.name}: {self.file} has this {text.count(self.anchor)} times, not once:\n{self.anchor}")
        at = text.index(self.anchor)
        start = text.rindex("\n", 0, at) + 1
        indentation = text[start:at]
        if indentation.strip():
            raise BadAnchor(f"{self.name}: in {self.file} this does not begin a line:\n{self.anchor}")
        call = f"{indentation}from procjobs import {RUNTIME}; {RUNTIME}.reach({number})  # {self.name}\n"
        if self.is_after:
            start = text.index("\n", at + len(self.anchor)) + 1
        return text[:start] + call + text[start:]


def edit(points, edits, source=SOURCE):
    """Return {file: text} of all files that differ from the source; raise BadAnchor."""
    texts = {}
    for file in {change.file for change in [*points, *edits]}:
        texts[file] = (source / file).read_text()
    for change in edits:
        texts[change.file] = change.apply(texts[change.file])
    for number, point in enumerate(points):
        texts[point.file] = point.apply(texts[point.file], number)
    for file, text in texts.items():
        compile(text, file, "exec")
    return texts


def make(directory, points, edits=()):
    """Make a build below a directory; return the directory for PYTHONPATH."""
    place = Path(directory) / "build"
    shutil.copytree(SOURCE, place / "procjobs", ignore=shutil.ignore_patterns("__pycache__"))
    for file, text in edit(points, edits).items():
        (place / "procjobs" / file).write_text(text)
    shutil.copy(HERE / "fault_runtime.py", place / "procjobs" / f"{RUNTIME}.py")
    for file in HERE.glob("store_chaos_*.py"):  # the jobs and the clients
        os.symlink(file, place / file.name)
    return str(place)
