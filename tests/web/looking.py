"""Pages of the dashboard in a browser."""

from __future__ import annotations

import contextlib

import psutil

from ..waiting import wait_until

SOON = 20_000
"""Milliseconds within which a page shows what it has to show, on a host that is busy."""
_NOT_FOUND = "the server responded with a status of 404"


@contextlib.contextmanager
def opened(browser, **options):
    """Open a page, and see to it that the browser has complained about nothing."""
    context = browser.new_context(**options)
    context.set_default_timeout(SOON)
    page = context.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    try:
        yield page
    finally:
        context.close()
        wait_until(lambda: not _zombies())  # the browser collects the processes of its pages a little later
    assert [] == [text for text in said if _NOT_FOUND not in text]


def _zombies():
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() == psutil.STATUS_ZOMBIE:
                found.append(child)
    return found
