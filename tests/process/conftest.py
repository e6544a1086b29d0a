"""Fixtures of the tests that run jobs."""

from __future__ import annotations

import pytest

from tests.process.witnesses import Code


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A module on disk, version "one"."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return Code(folder)
