"""The progress element when the server, or the way to it, fails. The server is one that fails on command."""

from __future__ import annotations

import pytest

from ..waiting import wait_until
from .browsing import visiting
from .fake_jobs import FakeJobs, ended, running


@pytest.fixture
def fake():
    """A server with one job, and a page with a bar of it."""
    fake = FakeJobs()
    fake.documents["a"] = running("a", 0.25, "encoding")
    fake.body = '<procjobs-progress job="a.1.x" label="Film 7" src="/jobs/"></procjobs-progress>'
    return fake


@pytest.fixture
def visit(browser, serve, fake):
    """Opens the page of the server."""
    return lambda **options: visiting(browser, serve(fake.app).url, **options)


def bars(numbers, **attributes):
    more = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return "".join(f'<procjobs-progress job="{n}.1.x" label="Film {n}"{more}></procjobs-progress>' for n in numbers)


def quicken(page, ms=31_000):
    """Let pauses up to this one be over."""
    page.clock.fast_forward(ms)


def test_server_without_streams_is_polled_as_often_as_it_says(visit, fake):
    fake.events_status = 404
    with visit() as watched:
        watched.wait_for_text("25%")
        wait_until(lambda: len(fake.asked_for("status")) > 3)
        assert [1] == fake.asked_for("events")
        fake.documents["a"] = ended("a", "succeeded")
        watched.wait_for_state("succeeded")
        assert ["job-end"] == [name for name, _, _ in watched.witness("events")][-1:]
        assert len(watched.console) == 1  # the browser's own line about the 404


def test_two_failures_of_the_stream_lead_to_polling(visit, fake):
    fake.events_status = 500
    with visit() as watched:
        watched.page.clock.install()
        wait_until(lambda: quicken(watched.page, 3_000) or fake.asked_for("status"))
        watched.wait_for_text("25%")
        assert [1, 1] == fake.asked_for("events")


def test_stream_that_brings_nothing_is_given_up(visit, fake):
    fake.is_silent = True
    with visit() as watched:
        watched.page.clock.install()
        wait_until(lambda: quicken(watched.page, 2_000) or watched.read()["value"] == "25%")
        assert [1, 1] == fake.asked_for("events")


def test_polling_page_tries_the_stream_again(visit, fake):
    fake.events_status = 503
    with visit() as watched:
        watched.page.clock.install()
        wait_until(lambda: fake.asked_for("status"))
        fake.events_status = 200
        wait_until(lambda: quicken(watched.page) or fake.open_streams == 1)


def test_stream_that_is_dropped_is_opened_again(visit, fake):
    fake.drops = True
    with visit() as watched:
        watched.page.clock.install()
        wait_until(lambda: quicken(watched.page) or len(fake.asked_for("events")) >= 4)
        fake.documents["a"] = ended("a", "failed", "ValueError: no such codec")
        wait_until(lambda: quicken(watched.page) or watched.read()["state"] == "failed")
        assert [] == fake.asked_for("status")  # each stream brought something


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refused_page_stops_and_says_so(visit, fake, status):
    fake.events_status = fake.status_status = status
    with visit() as watched:
        watched.page.clock.install()
        watched.wait_for_state("denied")
        asked, lines = len(fake.asked), len(watched.console)
        quicken(watched.page)
        assert (asked, lines) == (len(fake.asked), len(watched.console))
        assert ("cannot be shown", "Load the page again.") == (watched.read()["value"], watched.read()["message"])
        assert ["Film 7: cannot be shown, Load the page again."] == watched.witness("speech")


def test_one_refused_job_does_not_stop_the_others(visit, fake):
    fake.body = bars("ab")
    fake.documents["b"] = {"id": "b", "state": "unknown", "error": "this link has expired"}
    with visit() as watched:
        watched.wait_for_state("denied", "Film b")
        assert "this link has expired" == watched.read("Film b")["message"]
        assert "running" == watched.read("Film a")["state"]
        watched.assert_quiet()


def test_page_without_a_connection_says_so_and_goes_on(visit, fake):
    fake.events_status = 404
    with visit() as watched:
        watched.page.clock.install()
        watched.wait_for_text("25%")
        fake.status_status = 502
        wait_until(lambda: quicken(watched.page) or watched.read()["message"] == "no connection, trying again")
        assert "25%" == watched.read()["value"]
        fake.status_status = 200  # and the answer is the one that the page has had before
        wait_until(lambda: quicken(watched.page) or watched.read()["message"] == "encoding")


def test_hidden_page_asks_for_nothing(visit, fake):
    with visit() as watched:
        watched.wait_for_text("25%")
        watched.page.clock.install()
        watched.hide(True)
        wait_until(lambda: fake.open_streams == 0)
        quicken(watched.page)
        watched.page.evaluate("fetch('/favicon.ico')")  # whatever the bars ask for has been asked for by then
        assert [1] == fake.asked_for("events")
        fake.documents["a"] = running("a", 0.75)
        watched.hide(False)
        watched.wait_for_text("75%")
        assert [1, 1] == fake.asked_for("events")


def test_page_in_the_back_forward_cache_has_no_stream(visit, fake):
    with visit() as watched:
        watched.wait_for_text("25%")
        watched.page.evaluate('dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true }))')
        wait_until(lambda: fake.open_streams == 0)
        watched.page.evaluate('dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }))')
        wait_until(lambda: fake.open_streams == 1)


@pytest.mark.parametrize(("count", "requests"), [(20, [20]), (100, [100]), (150, [50, 100])])
def test_bars_share_as_few_requests_as_their_number_allows(visit, fake, count, requests):
    fake.body = bars(range(count))
    fake.documents |= {str(n): running(str(n), 0.5) for n in range(count)}
    with visit() as watched:
        watched.wait_for_text("50%", f"Film {count - 1}")
        watched.wait_for_text("50%", "Film 0")
        assert requests == sorted(fake.asked_for("events"))


def test_more_bars_than_two_streams_hold_are_polled(visit, fake):
    fake.body = bars(range(250))
    fake.documents |= {str(n): running(str(n), 0.5) for n in range(250)}
    with visit() as watched:
        watched.wait_for_text("50%", "Film 249")
        assert [100, 100] == fake.asked_for("events")
        assert {50} == set(fake.asked_for("status"))


def test_job_that_nobody_knows_is_given_up(visit, fake):
    del fake.documents["a"]
    fake.events_status = 404
    with visit() as watched:
        watched.page.clock.install()
        watched.wait_for_state("unknown")
        assert 0 == watched.page.locator("procjobs-progress .ended").count()
        quicken(watched.page)
        watched.page.locator("procjobs-progress .ended").wait_for()
        assert "not known (any more)" == watched.read()["value"]


def test_job_that_nobody_knows_ends_with_its_stream(visit, fake):
    del fake.documents["a"]
    with visit() as watched:
        watched.page.locator("procjobs-progress .ended").wait_for()
        assert [("events", 1)] == fake.asked
        assert ["job-progress", "job-end"] == [name for name, _, _ in watched.witness("events")]


def test_cancel_that_fails_can_be_tried_again(visit, fake):
    fake.body = '<procjobs-progress job="a.1.x" label="Film 7" cancel></procjobs-progress>'
    fake.cancel_status = 503
    with visit() as watched:
        watched.page.get_by_role("button", name="Cancel: Film 7").click()
        watched.wait_for_text("could not be cancelled")
        fake.cancel_status = 200
        watched.page.get_by_role("button", name="Cancel: Film 7").click()
        watched.wait_for_text("being cancelled")
        wait_until(lambda: ["id=a.1.x"] * 2 == fake.cancelled)
