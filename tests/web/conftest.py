"""Fixtures of the web face: servers on the loopback, one browser for all tests of a run."""

from __future__ import annotations

import contextlib
import os
import uuid

import pytest

import procjobs

SECRET = "a secret of tests, 32 bytes long."
os.environ["PROCJOBS_WEB_SECRET"] = SECRET  # programs that tests start have the same

for _name in ("starlette", "sse_starlette", "uvicorn", "jinja2"):
    pytest.importorskip(_name)

from ..chromium import running_chromium  # noqa: E402
from ..waiting import wait_until  # noqa: E402
from .servers import serving, serving_wsgi  # noqa: E402


@pytest.fixture(scope="module")
def shared_pool():
    """A pool with two workers for the tests of a module that start and end no process of it; `pool` is a fresh one."""
    pool = procjobs.Pool(f"web-{os.getpid()}-{uuid.uuid4().hex[:8]}", workers=2)
    pool.submit(pow, 2, 2).result(30)
    wait_until(lambda: [worker.state for worker in pool.workers()] == ["idle", "idle"])
    yield pool
    pool.stop()


@pytest.fixture
def serve():
    """Serves an ASGI application until the test ends: `serve(app)` returns a `Served`."""
    with contextlib.ExitStack() as stack:
        yield lambda app, path="": stack.enter_context(serving(app, path))


@pytest.fixture
def serve_wsgi():
    """Serves a WSGI application until the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda app, path="": stack.enter_context(serving_wsgi(app, path))


@pytest.fixture(scope="module")
def browser():
    """Chromium, started once for a module; tests make contexts of their own: `browser.new_context()`.

    Not once for the run: as long as Playwright is there, its event loop is the one of this thread, and the next module with
    an `asyncio.run` in it could not have one.
    """
    with running_chromium() as started:
        yield started
