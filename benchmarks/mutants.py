"""Mutants of procjobs: each breaks one promise. store_chaos.py has to notice every one of them."""

from __future__ import annotations

from typing import NamedTuple

from faulty_build import Edit


class Mutant(NamedTuple):
    """What it breaks, and how."""

    breaks: str
    edits: tuple[Edit, ...]


MUTANTS: dict[str, Mutant] = {}
