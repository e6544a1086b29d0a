"""The end user's half behind real servers and inside other applications."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import fastapi
import pytest
import starlette.applications
import starlette.middleware.gzip
import starlette.routing

import procjobs
from procjobs.web import progress, sign

from ..waiting import wait_until
from . import jobs
from .servers import Stream, free_port, program

ROOT = Path(__file__).parents[2]


@pytest.fixture
def named_pool(pool_name):
    with procjobs.Pool(pool_name, workers=1) as pool:
        yield pool


def test_server_that_is_told_to_end_ends_open_streams_without_a_word(named_pool, tmp_path):
    """The limit is far above what it takes, and far below what streams that nobody ends would take: for ever."""
    log = tmp_path / "log"
    port = free_port()
    arguments = ["-m", "uvicorn", "--port", str(port), "--log-level", "warning", "tests.web.stream_app:asgi"]
    job = named_pool.submit(jobs.stepping, str(tmp_path))
    with ExitStack() as held:
        file = held.enter_context(log.open("wb"))
        environment = {"TEST_POOL": named_pool.name}
        served = held.enter_context(program(arguments, port=port, cwd=ROOT, env=environment, log=file))
        streams = [held.enter_context(Stream(served, [sign(job)])) for _ in range(50)]
        assert {"retry: 3000"} == {stream.read_block()[0] for stream in streams}
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(20)
    job.cancel()
    assert "" == log.read_text()


def test_pages_poll_under_gunicorn(named_pool, tmp_path):
    port = free_port()
    job = named_pool.submit(jobs.stepping, str(tmp_path), total=1)
    arguments = ["-m", "gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{port}", "tests.web.stream_app:wsgi"]
    with program(arguments, port=port, cwd=ROOT, env={"TEST_POOL": named_pool.name}) as served:
        try:
            assert "running" == wait_until(lambda: state_of(served, job) == "running" and "running")
            (tmp_path / "1").touch()
            (tmp_path / "end").touch()
            wait_until(lambda: state_of(served, job) == "succeeded")
            assert 404 == served.get("api/1/events", id=sign(job)).status  # the page goes on polling
        finally:
            served.process.terminate()
            served.process.wait(20)


def state_of(served, job):
    answer = served.get("api/1/status", id=sign(job))
    assert 200 == answer.status, answer.text
    return answer.json()["jobs"][0]["state"]


def test_wsgi_half_needs_no_asgi_library_and_the_other_half_says_what_it_needs():
    hide = "import sys; sys.modules['starlette'] = sys.modules['sse_starlette'] = None"
    code = f"{hide}; import procjobs.web as w; w.wsgi; w.progress_wsgi; print('here'); w.progress"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (1, "here") == (done.returncode, done.stdout.strip())
    assert "pip install 'procjobs[web]'" in done.stderr.splitlines()[-1]


def in_starlette(app):
    routes = [starlette.routing.Mount("/jobs", app)]
    return starlette.applications.Starlette(routes=routes)


def in_fastapi(app):
    outer = fastapi.FastAPI()
    outer.add_middleware(starlette.middleware.gzip.GZipMiddleware, minimum_size=1)
    outer.mount("/jobs", app)
    return outer


@pytest.mark.parametrize("mounted", [in_starlette, in_fastapi])
def test_mounted_below_a_prefix(serve, shared_pool, mounted):
    served = serve(mounted(progress(shared_pool)), "/jobs")
    job = shared_pool.submit(pow, 2, 3)
    job.result(30)
    with Stream(served, [sign(job)], {"Accept-Encoding": "gzip"}) as stream:
        assert "succeeded" == stream.read_documents()[-1]["state"]
    assert "succeeded" == state_of(served, job)
    back = served.post("api/1/cancel", id=sign(job, cancel=True), next="job?id=1")
    assert (303, "/jobs/job?id=1") == (back.status, back.headers["Location"])


def test_mounts_in_one_process_know_nothing_of_each_other(serve, shared_pool, pool):
    first, second = progress(shared_pool), progress(pool, secret="another secret of 28 bytes.")
    outer = starlette.applications.Starlette(
        routes=[starlette.routing.Mount("/first", first), starlette.routing.Mount("/second", second)]
    )
    served = serve(outer)
    job, other = shared_pool.submit(pow, 2, 3), pool.submit(pow, 2, 3)
    job.result(30), other.result(30)
    assert "succeeded" in served.get("first/api/1/status", id=sign(job)).text
    assert 403 == served.get("second/api/1/status", id=sign(job)).status
    theirs = {"secret": "another secret of 28 bytes."}
    assert "succeeded" in served.get("second/api/1/status", id=sign(other, **theirs)).text
    assert "unknown" in served.get("second/api/1/status", id=sign(job, **theirs)).text
    assert 403 == served.get("first/api/1/status", id=sign(other, **theirs)).status
