"""What the progress element shows and says of the documents of a job, and how it behaves as an element of a page."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ..waiting import wait_until
from .browsing import barriers, visiting
from .fake_jobs import FakeJobs, ended, running

HOSTILE = "<img src=x onerror=alert(1)>"


def bar(job="a", label="Film 7", more=""):
    return f'<procjobs-progress job="{job}.1.x" label="{label}" {more}></procjobs-progress>'


@pytest.fixture
def fake():
    """A server with one job, and a page with a bar of it."""
    fake = FakeJobs()
    fake.documents["a"] = running("a", 0.25, "encoding")
    fake.body = bar()
    return fake


@pytest.fixture
def visit(browser, serve, fake):
    """Opens the page of the server."""
    return lambda **options: visiting(browser, serve(fake.app).url, **options)


def waiting(job_id, state, error=None):
    return {**ended(job_id, state, error), "done": False}


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "40%, encoding, about 2 minutes left"),
        ("de-CH", "40 %, encoding, noch etwa 2 Minuten"),
        ("fr", "40 %, encoding, encore 2 minutes environ"),
        ("es", "40 %, encoding, faltan unos 2 minutos"),
        ("xx", "40%, encoding, about 2 minutes left"),
    ],
)
def test_bar_says_in_the_language_of_the_page_how_far_it_is(visit, fake, language, said):
    fake.documents["a"] = running("a", 0.4, "encoding", eta=120)
    fake.body = f'<div lang="{language}">{bar(more="eta")}</div>'
    with visit() as watched:
        watched.wait_for_text("encoding")
        assert said == watched.read()["spoken"]
        assert watched.page.get_by_role("progressbar", name="Film 7").is_visible()
        assert 0.4 == watched.read()["bar"]
        watched.assert_quiet()


STATES = {
    "queued": (waiting("a", "queued"), "waiting", "", 0),
    "scheduled": (waiting("a", "scheduled"), "scheduled", "", 0),
    "retrying": (waiting("a", "retrying", "OSError: disk full"), "will be tried again", "OSError: disk full", 0),
    "succeeded": (ended("a", "succeeded"), "done", "", 1),
    "failed": (ended("a", "failed", "ValueError: no codec"), "failed", "ValueError: no codec", 0),
    "cancelled": (ended("a", "cancelled", "JobCancelled"), "cancelled", "", 0),
    "expired": (ended("a", "expired", "JobExpired"), "expired", "", 0),
}


def test_each_state_is_shown_and_announced_instead_of_the_last_message(visit, fake):
    fake.body = "".join(bar(state, state) for state in STATES)
    fake.documents = {state: running(state, 0.98, "98 % encoding") for state in STATES}
    with visit() as watched:
        watched.wait_for_text("98%", "expired")
        fake.documents = {state: {**document, "id": state} for state, (document, *_) in STATES.items()}
        for state, (_, value, message, part) in STATES.items():
            watched.wait_for_state(state, state)
            shown = watched.read(state)
            assert (value, message, part) == (shown["value"], shown["message"], shown["bar"])
            assert ", ".join(filter(None, [value, message])) == shown["spoken"]
        said = watched.witness("speech")
        for state in ("succeeded", "failed", "cancelled", "expired"):
            _, value, message, _ = STATES[state]
            assert f"{state}: {', '.join(filter(None, [value, message]))}" in said
        ends = [label for name, label, _ in watched.witness("events") if name == "job-end"]
        assert ["succeeded", "failed", "cancelled", "expired"] == ends
        watched.assert_quiet()


def test_bar_speaks_at_its_start_each_quarter_and_at_its_end(visit, fake):
    fake.documents["a"] = waiting("a", "queued")
    with visit() as watched:
        watched.page.clock.install()
        watched.wait_for_state("queued")
        for percent in (1, 10, 24, 26, 30, 49, 51):
            watched.page.clock.fast_forward(11_000)
            fake.documents["a"] = running("a", percent / 100, f"part {percent}")
            watched.wait_for_text(f"{percent}%")
        fake.documents["a"] = running("a", 0.8, "part 80")  # too soon after the last one
        watched.wait_for_text("80%")
        fake.documents["a"] = ended("a", "succeeded")
        watched.wait_for_state("succeeded")
        assert ["waiting", "1%, part 1", "26%, part 26", "51%, part 51", "done"] == [
            text.removeprefix("Film 7: ") for text in watched.witness("speech")
        ]


def test_job_without_a_total_shows_its_time(visit, fake):
    fake.documents["a"] = {**running("a", None, "downloading"), "started_at": "2020-01-01T00:00:00Z"}
    with visit() as watched:
        watched.wait_for_text("downloading")
        assert watched.read()["bar"] is None
        assert watched.read()["spoken"].startswith("running for ")
        assert watched.read()["spoken"].endswith(" hours, downloading")
        before = watched.read()["value"]
        wait_until(lambda: watched.read()["value"] != before)


def test_job_that_has_not_reported_speaks_once(visit, fake):
    started_at = datetime.now(UTC).isoformat()
    fake.documents["a"] = {**running("a", None), "progress": None, "started_at": started_at}
    with visit() as watched:
        watched.page.clock.install()
        watched.wait_for_state("running")
        for _ in range(3):
            watched.page.clock.run_for(11_000)
        assert 1 == len(watched.witness("speech"))


def test_hostile_text_is_shown_as_text(visit, fake):
    fake.documents["a"] = running("a", 0.5, HOSTILE)
    fake.documents["b"] = ended("b", "failed", HOSTILE * 200)
    fake.body = bar(label=HOSTILE.replace("<", "&lt;")) + bar("b", "Film 8")
    with visit() as watched:
        watched.wait_for_state("failed", "Film 8")
        shown = watched.read(HOSTILE)
        assert (HOSTILE, HOSTILE) == (shown["label"], shown["message"])
        assert 300 == len(watched.read("Film 8")["message"])
        assert 0 == watched.page.locator("img").count()
        watched.assert_quiet()


def test_texts_can_be_replaced_one_by_one(visit, fake):
    fake.documents["a"] = ended("a", "succeeded")
    fake.body = bar(more='data-succeeded="Ready to watch"')
    with visit() as watched:
        watched.wait_for_text("Ready to watch")


def test_bars_come_go_and_change_their_job(visit, fake):
    fake.documents["b"] = running("b", 0.75)
    with visit() as watched:
        watched.wait_for_text("25%")
        watched.page.evaluate("""() => {
            const bar = document.createElement("procjobs-progress");
            bar.setAttribute("label", "Film 8");
            document.querySelector("main").append(bar);
            bar.setAttribute("job", "a.1.x");
        }""")
        watched.wait_for_text("25%", "Film 8")
        assert [1] == fake.asked_for("events")  # two bars of one job
        watched.bar("Film 8").evaluate('(bar) => bar.setAttribute("job", "b.1.x")')
        watched.wait_for_text("75%", "Film 8")
        fake.documents["a"] = ended("a", "succeeded")
        watched.wait_for_state("succeeded")
        watched.bar().evaluate('(bar) => bar.setAttribute("job", "b.1.x")')
        watched.wait_for_text("75%")
        watched.page.evaluate('document.querySelectorAll("procjobs-progress").forEach((bar) => bar.remove())')
        wait_until(lambda: fake.open_streams == 0)
        assert ["25%, encoding", "75%", "done"] == [text.partition(": ")[2] for text in watched.witness("speech")][:3]
        watched.assert_quiet()


def test_bars_of_one_job_speak_once(visit, fake):
    fake.body = bar() + bar(label="The same film")
    with visit() as watched:
        watched.wait_for_text("25%", "The same film")
        fake.documents["a"] = ended("a", "succeeded")
        watched.wait_for_state("succeeded", "The same film")
        watched.wait_for_state("succeeded")
        assert ["Film 7: 25%, encoding", "Film 7: done"] == watched.witness("speech")
        assert ["Film 7", "The same film"] == [label for name, label, _ in watched.witness("events") if name == "job-end"]


@pytest.mark.parametrize("then", ["reload", "/?ready"])
def test_browser_goes_on_once_when_the_job_has_succeeded(visit, fake, then):
    fake.body = bar(more=f'then="{then}"')
    with visit() as watched:
        watched.page.clock.install()
        watched.wait_for_text("25%")
        fake.documents["a"] = ended("a", "succeeded")
        watched.wait_for_state("succeeded")
        with watched.page.expect_navigation():
            watched.page.clock.fast_forward(2_000)
        watched.wait_for_state("succeeded")
        assert watched.page.url.endswith("/" if then == "reload" else then)
        watched.page.evaluate("window.isSame = true")
        watched.page.clock.fast_forward(2_000)
        assert watched.page.evaluate("window.isSame")


@pytest.mark.parametrize(
    ("then", "document"), [("javascript:alert(1)", ended("a", "succeeded")), ("/", ended("a", "failed"))]
)
def test_browser_stays_where_it_is(visit, fake, then, document):
    fake.body = bar(more=f'then="{then}"')
    fake.documents["a"] = document
    with visit() as watched:
        watched.page.clock.install()
        watched.wait_for_state(document["state"])
        watched.page.evaluate("window.isSame = true")
        watched.page.clock.fast_forward(2_000)
        assert watched.page.evaluate("window.isSame")
        watched.assert_quiet()


def test_region_that_the_bars_are_for_is_busy_until_all_have_ended(visit, fake):
    fake.documents["b"] = running("b", 0.5)
    fake.body = f'<div id="films"></div>{bar(more="for=films")}{bar("b", "Film 8", "for=films")}'
    with visit() as watched:
        region = watched.page.locator("#films")
        watched.wait_for_text("50%", "Film 8")
        assert "true" == region.get_attribute("aria-busy")
        fake.documents["a"] = ended("a", "succeeded")
        watched.wait_for_state("succeeded")
        assert "true" == region.get_attribute("aria-busy")
        fake.documents["b"] = ended("b", "failed")
        watched.wait_for_state("failed", "Film 8")
        assert "false" == region.get_attribute("aria-busy")


def test_bar_without_a_label_warns_the_developer(visit, fake):
    fake.body = bar(label="")
    with visit() as watched:
        watched.wait_for_text("25%", "")
        assert ["warning: procjobs-progress: the attribute label is missing JSHandle@node"] == watched.console
        assert "Progress" == watched.read("")["label"]


def test_motion_is_left_out_where_the_visitor_wants_none(visit, fake):
    fake.documents["a"] = running("a", None, "downloading")
    animation = '(bar) => getComputedStyle(bar.shadowRoot.querySelector("progress")).animationName'
    with visit(reduced_motion="reduce") as watched:
        watched.wait_for_text("downloading")
        assert "none" == watched.bar().evaluate(animation)
        watched.page.emulate_media(reduced_motion="no-preference")
        assert "run" == watched.bar().evaluate(animation)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_state_has_a_barrier_that_axe_finds(visit, fake, scheme):
    documents = {state: {**document, "id": state} for state, (document, *_) in STATES.items()}
    more = {"running": running("running", 0.4, "encoding", eta=130), "endless": running("endless", None, "downloading")}
    fake.documents = {**documents, **more, "denied": {"id": "denied", "state": "unknown", "error": "this link has expired"}}
    fake.body = "".join(bar(job, f"The film {job}", "cancel eta") for job in [*fake.documents, "unknown"])
    with visit(color_scheme=scheme, viewport={"width": 320, "height": 900}) as watched:
        for state in [*STATES, "running", "denied", "unknown"]:
            watched.wait_for_state(state, f"The film {state}")
        assert 320 == watched.page.evaluate("document.documentElement.scrollWidth")
        assert [] == barriers(watched.page)
        size = watched.page.get_by_role("button").first.bounding_box()
        assert min(size["width"], size["height"]) >= 44
