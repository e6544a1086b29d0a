"""What a test needs and a machine may not have."""

import os

import pytest


def missing(text):
    """Skip a test for which something is not installed; fail where it has to be."""
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)
