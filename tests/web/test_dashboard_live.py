"""The dashboard in a browser beside a pool that works: parts renew themselves, and buttons do what they say."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

import procjobs
from procjobs.client.running_pool import RunningPool, find_pool
from procjobs.web import app
from tests.waiting import wait_until

from . import jobs
from .looking import opened


@pytest.fixture
def site(serve, shared_pool):
    served = serve(app(shared_pool, authorize=lambda _: "admin"))
    served.pages = f"{served.url}/pools/{shared_pool.name}"
    return served


@pytest.fixture
def page(browser, site):
    with opened(browser, viewport={"width": 1280, "height": 900}) as page:
        yield page


@pytest.fixture
def stepping(shared_pool, tmp_path):
    """A job that reports its next step when it is told to, and ends with the test."""
    job = shared_pool.submit(jobs.stepping, tmp_path)

    def allow(step):
        (tmp_path / str(step)).touch()

    job.allow = allow
    yield job
    for step in (1, 2, 3, "end"):
        allow(step)
    wait_until(job.done)


def open_job(page, site, job):
    page.goto(f"{site.pages}/jobs/{job.id}")


def test_page_of_a_job_follows_it_and_keeps_what_the_reader_does(page, site, stepping):
    open_job(page, site, stepping)
    page.locator(".pill.s-running").first.wait_for()
    page.locator("#stack pre", has_text="in stepping").wait_for()
    page.locator("#stack summary").click()  # closed by the reader: it stays closed
    page.get_by_role("button", name="Cancel this job").focus()
    page.evaluate(
        """() => {
            const id = document.querySelector(".id").firstChild;
            document.getSelection().setBaseAndExtent(id, 0, id, id.length);
        }"""
    )
    stepping.allow(1)
    page.get_by_text("step 1").first.wait_for()
    stepping.allow(2)
    page.get_by_text("2 of 3").wait_for()
    assert "0.6667" == page.locator("main progress").first.get_attribute("value")
    assert not page.evaluate("document.getElementById('stack').open")
    assert stepping.id == page.evaluate("document.getSelection().toString()")
    assert "Cancel this job" == page.evaluate("document.activeElement.innerText")
    for step in (3, "end"):
        stepping.allow(step)
    page.locator("h1 + .s-succeeded").wait_for()
    assert "100 %" in page.locator(".big-progress").inner_text()
    assert "main" == page.evaluate("document.activeElement.id")  # the button went with the end of the job


def test_updates_can_be_paused(page, site, stepping):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    open_job(page, site, stepping)
    page.locator(".pill.s-running").first.wait_for()
    button = page.get_by_role("button", name="Pause updates")
    button.focus()
    page.keyboard.press("Enter")
    page.get_by_text("Updates are paused.").wait_for()
    paused = page.get_by_role("button", name="Resume updates")
    assert "true" == paused.get_attribute("aria-pressed")
    stepping.allow(1)
    wait_until(lambda: stepping.status().progress is not None)
    asked.clear()
    page.evaluate("new Promise((done) => setTimeout(done, 2500))")  # longer than the period of updates
    assert [] == asked
    assert 0 == page.get_by_text("step 1").count()
    paused.click()
    page.get_by_text("step 1").first.wait_for()


def test_job_is_cancelled_and_retried_by_keyboard(page, site, shared_pool, stepping):
    open_job(page, site, stepping)
    page.locator(".pill.s-running").first.wait_for()
    page.get_by_role("button", name="Cancel this job").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert "Cancel this job" == page.evaluate("document.activeElement.innerText")
    assert not stepping.done()
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Cancel the job").wait_for()
    page.keyboard.press("Tab")
    dialog.get_by_role("button", name="Cancel the job").focus()
    page.keyboard.press("Enter")
    page.locator("h1 + .s-cancelled").wait_for()
    wait_until(stepping.done)
    page.get_by_role("button", name="Retry this job").focus()
    page.keyboard.press("Enter")
    again = wait_until(lambda: [job for job in shared_pool.jobs() if job.retry_of == stepping.id])
    page.wait_for_url(f"{site.pages}/jobs")
    assert again[0].id in page.locator("td.main a").first.get_attribute("href")
    for step in (1, 2, 3, "end"):
        stepping.allow(step)
    assert 3 == shared_pool.result(again[0].id, 30)


def test_failed_job_shows_its_error_and_is_listed(page, site, shared_pool):
    job = shared_pool.submit(jobs.failing, "<b>no such film</b>")
    assert job.exception(30) is not None
    page.goto(f"{site.pages}/jobs?state=failed")
    page.locator("td.main a").first.click()
    assert "ValueError: <b>no such film</b>" in page.locator("pre.error").inner_text()
    page.get_by_text("Traceback of the last attempt").click()
    assert "in failing" in page.locator("#error-details pre").inner_text()


def test_without_scripts_the_question_is_a_page(browser, site, stepping):
    with opened(browser, java_script_enabled=False) as page:
        open_job(page, site, stepping)
        page.get_by_role("button", name="Cancel this job").click()
        assert page.get_by_role("heading", level=1).inner_text().endswith("stepping?")
        page.get_by_role("button", name="Cancel the job").click()
        page.locator("h1 + .s-cancelled, h1 + .s-running").first.wait_for()
        assert f"{site.pages}/jobs/{stepping.id}" == page.url
        wait_until(stepping.done)


def test_pool_whose_supervisor_is_killed_says_so_and_comes_back(browser, serve, pool_name):
    views = []

    def running():
        if not views or (not views[-1].is_running() and find_pool(pool_name)):
            with contextlib.suppress(procjobs.ProcjobsError):
                views.append(RunningPool(find_pool(pool_name)))
        return views[-1]

    pool = procjobs.Pool(pool_name, workers=1).connect()
    site = serve(app(running, authorize=lambda _: "read"))
    with opened(browser) as page:
        page.goto(f"{site.url}/pools/{pool_name}/queues")
        assert "" == page.locator('[data-live="alert"]').inner_text()
        page.get_by_text("This pool has no queues").wait_for()
        os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
        page.get_by_text("The supervisor is gone: it was killed.").wait_for()
        assert 4 == procjobs.Pool(pool_name, workers=1).submit(pow, 2, 2).result(30)
        page.locator('[data-live="alert"] .notice').wait_for(state="detached")
    for view in views:
        view.close()
    pool.stop()
