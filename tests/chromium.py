"""Debian's Chromium, driven by playwright, for the tests that look at pages."""

from __future__ import annotations

import contextlib
import shutil

from tests.missing import missing


@contextlib.contextmanager
def running_chromium():
    """Yield a browser; the test is skipped where there is none, and fails where there has to be one."""
    try:
        from playwright import sync_api as playwright
    except ImportError:
        missing("playwright is not installed (pip install '.[test]')")
    found = shutil.which("chromium")
    if found is None:
        missing("chromium is not installed (apt-get install chromium)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
