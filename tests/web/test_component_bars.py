"""Bars of real jobs in a real browser, and what becomes of them when processes are killed."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

import procjobs
from procjobs.web import progress, sign, tag

from ..waiting import wait_until
from . import component_program, jobs
from .browsing import barriers, site, visiting
from .servers import free_port, program


@pytest.fixture
def show(browser, serve):
    """Opens a page with some bars: `show(pool, body)`."""

    def show(pool, *bars, **options):
        served = serve(site(progress(pool), lambda: "".join(bars)))
        return visiting(browser, served.url, **options)

    return show


@pytest.fixture
def start(pool_name):
    """Starts a named pool, which is stopped after the test, whatever runs in it."""
    with contextlib.ExitStack() as stack:

        def start(**settings):
            pool = procjobs.Pool(pool_name, workers=1, **settings)
            stack.callback(pool.stop)
            return pool

        yield start


@pytest.fixture
def step(tmp_path):
    """Lets the job go on to some steps, or to its end."""
    return lambda *names: [(tmp_path / str(name)).touch() for name in names]


def test_bar_moves_and_shows_that_its_job_has_succeeded(show, shared_pool, tmp_path, step):
    job = shared_pool.submit(jobs.stepping, str(tmp_path))
    with show(shared_pool, tag(job, "Film 7")) as watched:
        for number, percent in ((1, "33%"), (2, "66%"), (3, "100%")):
            step(number)
            watched.wait_for_text(percent)
            assert f"step {number}" == watched.read()["message"]
        step("end")
        watched.wait_for_state("succeeded")
        assert ("done", "", 1) == tuple(watched.read()[key] for key in ("value", "message", "bar"))
        names = [name for name, _, _ in watched.witness("events")]
        assert ("job-progress", "job-end", 1) == (names[0], names[-1], names.count("job-end"))
        assert "Film 7: done" == watched.witness("speech")[-1]
        watched.assert_quiet()


def test_bar_says_why_its_job_has_failed(show, shared_pool):
    job = shared_pool.submit(jobs.failing, "\x1b[31m<img src=x onerror=alert(1)> \u202egpj.exe " + "x" * 1_000_000)
    with show(shared_pool, tag(job, "Film 7")) as watched:
        watched.wait_for_state("failed")
        shown = watched.read()["message"]
        assert shown.startswith("ValueError: <img src=x onerror=alert(1)> \\u202egpj.exe xxx")
        assert len(shown) <= 300
        watched.assert_quiet()


def test_bar_of_a_killed_worker_says_so(show, pool, tmp_path, step):
    job = pool.submit(jobs.stepping, str(tmp_path))
    with show(pool, tag(job, "Film 7")) as watched:
        step(1)
        watched.wait_for_text("33%")
        os.kill(pool.status(job.id).worker_pid, signal.SIGKILL)
        watched.wait_for_state("failed")
        assert "SIGKILL" in watched.read()["message"]


def test_job_is_cancelled_with_the_keyboard(show, shared_pool, tmp_path, step):
    job = shared_pool.submit(jobs.stepping, str(tmp_path))
    with show(shared_pool, tag(job, "Film 7", cancel=True)) as watched:
        step(1)
        watched.wait_for_text("33%")
        watched.page.keyboard.press("Tab")
        watched.page.keyboard.press("Enter")
        watched.wait_for_state("cancelled")
        wait_until(lambda: job.state == "cancelled")
        speech = watched.witness("speech")
        assert {"Film 7: being cancelled", "Film 7: cancelled"} <= set(speech)
        assert 0 == watched.page.get_by_role("button").count()
        focus = "document.activeElement.shadowRoot.activeElement.getAttribute('role')"
        assert "group" == watched.page.evaluate(focus)  # not lost with the button
        watched.assert_quiet()


def test_twenty_bars_are_one_stream(show, shared_pool, tmp_path, step):
    slow = shared_pool.submit(jobs.stepping, str(tmp_path))
    quick = [shared_pool.submit(pow, 2, number) for number in range(19)]
    bars = [tag(job, f"Film {number}") for number, job in enumerate([slow, *quick])]
    with show(shared_pool, *bars) as watched:
        step(1)
        watched.wait_for_text("33%", "Film 0")
        for number in range(1, 20):
            watched.wait_for_state("succeeded", f"Film {number}")
        asked = watched.page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
        step(2, 3, "end")
        watched.wait_for_state("succeeded", "Film 0")
        asked = watched.page.evaluate("performance.getEntriesByType('resource').map((e) => [e.name, e.nextHopProtocol])")
        assert ["http/1.1"] == [protocol for name, protocol in asked if "/api/1/events?" in name]
        assert not [name for name, _ in asked if "/api/1/status?" in name]
        watched.assert_quiet()


def test_bar_goes_on_when_its_web_server_was_killed_and_started_again(browser, start, pool_name, tmp_path, step):
    job = start().submit(jobs.stepping, str(tmp_path))
    port, root = free_port(), Path(__file__).parents[2]
    arguments = ["-m", component_program.__name__, str(port), pool_name, job.id]
    with program(arguments, port=port, cwd=root) as served, visiting(browser, served.url) as watched:
        step(1)
        watched.wait_for_text("33%")
        served.process.kill()
        served.process.wait()
        with program(arguments, port=port, cwd=root):
            step(2)
            watched.wait_for_text("66%")
            step(3, "end")
            watched.wait_for_state("succeeded")


@pytest.mark.parametrize(("has_store", "state"), [(False, "unknown"), (True, "succeeded")])
def test_bar_goes_on_or_ends_when_the_supervisor_was_killed(show, start, tmp_path, step, has_store, state):
    pool = start(**({"store": f"sqlite:///{tmp_path}/jobs.db"} if has_store else {}))
    job = pool.submit(jobs.stepping, str(tmp_path))
    with show(pool, tag(job, "Film 7")) as watched:
        step(1)
        watched.wait_for_text("33%")
        os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
        step(2, 3, "end")
        watched.wait_for_state(state)
        wait_until(lambda: [name for name, _, _ in watched.witness("events") if name == "job-end"])


def test_without_javascript_the_page_of_the_job_reloads_itself_to_the_end(show, shared_pool, tmp_path, step):
    job = shared_pool.submit(jobs.stepping, str(tmp_path))
    with show(shared_pool, tag(job, "Film 7"), java_script_enabled=False) as watched:
        step(1)
        watched.page.get_by_role("link", name="Film 7").click()
        watched.page.get_by_text("33%").wait_for()
        step(2, 3, "end")
        watched.page.get_by_text("done").wait_for()
        assert "done | Film 7" == watched.page.title()
        assert [] == watched.console


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_of_a_job_has_no_barrier_that_axe_finds(browser, serve, shared_pool, tmp_path, step, scheme):
    job = shared_pool.submit(jobs.stepping, str(tmp_path))
    failed = shared_pool.submit(jobs.failing, "no such codec")
    served = serve(progress(shared_pool))
    options = {"color_scheme": scheme, "viewport": {"width": 320, "height": 640}}
    with visiting(browser, f"{served.url}/job?label=Film+7&id={sign(job, cancel=True)}", **options) as watched:
        watched.wait_for_state("running")
        assert [] == barriers(watched.page)
        assert 320 == watched.page.evaluate("document.documentElement.scrollWidth")
        watched.page.get_by_role("button", name="Cancel: Film 7").click()
        watched.wait_for_state("cancelled")
        watched.page.goto(f"{served.url}/job?label=Film+7&id={sign(failed)}")
        watched.wait_for_state("failed")
        assert [] == barriers(watched.page)
        assert [] == [line for line in watched.console if "favicon" not in line and "404" not in line]
