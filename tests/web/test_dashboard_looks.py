"""The dashboard in a browser, with pools that always answer the same: its pages fit, are accessible, and keep text text."""

from __future__ import annotations

import pytest

from procjobs.web import app

from .invented import HOSTILE, InventedPool
from .looking import opened

PAGES = (
    "", "pools/media/", "pools/media/jobs", "pools/media/jobs?state=queued", "JOB running", "JOB failed",
    "pools/media/workers", "pools/media/queues", "pools/media/schedules", "pools/media/history", "pools/media/settings",
    "pools/media/ask?what=drain", "pools/none/",
)  # fmt: skip


@pytest.fixture(scope="module")
def pools():
    return [InventedPool(), InventedPool("mail")]


@pytest.fixture
def site(serve, pools):
    return serve(app(pools, show_arguments=True, authorize=lambda request: request.query_params.get("right", "admin")))


def address(pools, path):
    kind, _, state = path.partition(" ")
    if kind != "JOB":
        return path
    return f"pools/media/jobs/{next(job.id for job in pools[0].all if job.state == state and job.progress is not None)}"


def overflow(page):
    """How many pixels a page is wider than its window, and who sticks out."""
    return page.evaluate(
        """() => document.documentElement.scrollWidth <= innerWidth ? [] :
            [...document.querySelectorAll("*")].filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
                .map((one) => one.outerHTML.slice(0, 80))"""
    )


@pytest.mark.parametrize("path", PAGES)
def test_page_fits_and_is_accessible_in_light_and_dark_wide_and_narrow(browser, site, pools, path):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with opened(browser) as page:
        for scheme, width in (("light", 1280), ("dark", 320), ("light", 320), ("dark", 1280)):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.set_viewport_size({"width": width, "height": 700})
            if page.url == "about:blank":
                page.goto(f"{site.url}/{address(pools, path)}")
            assert [] == overflow(page), (scheme, width)
            if (scheme, width) in {("light", 1280), ("dark", 320)}:
                found = axe.run(page).response
                assert [] == [(one["id"], [node["target"] for node in one["nodes"]]) for one in found["violations"]]
                assert len(found["passes"]) > 10


def test_question_is_a_dialog_with_the_focus_in_it(browser, site):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with opened(browser, viewport={"width": 320, "height": 600}) as page:
        page.goto(f"{site.url}/pools/media/jobs?state=running")
        page.get_by_role("button", name="Cancel all of these").click()
        dialog = page.get_by_role("dialog", name="Cancel 6 running jobs?")
        dialog.wait_for()
        assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
        assert [] == axe.run(page).response["violations"]
        assert [] == overflow(page)
        dialog.get_by_role("link", name="Let them go on").click()
        dialog.wait_for(state="hidden")
        assert "Cancel all of these…" == page.evaluate("document.activeElement.innerText")


def test_text_of_jobs_runs_nothing_and_shows_as_it_is(browser, serve):
    pool = InventedPool(hostile=True)
    hostile = [job for job in pool.all if job.name == HOSTILE]
    site = serve(app(pool, authorize=lambda _: "admin", show_arguments=True))
    with opened(browser) as page:
        page.set_viewport_size({"width": 320, "height": 700})
        for path in ("pools/media/", "pools/media/jobs", *(f"pools/media/jobs/{job.id}" for job in hostile)):
            page.goto(f"{site.url}/{path}")
            shown = page.inner_text("main")
            assert "<img src=x onerror=document.title='owned'>red" in shown
            assert "\\u202egnp.exe </script><script>alert(1)</script>" in shown
            assert 0 == page.locator("img").count()
            assert "owned" not in page.title().partition("·")[2]
            assert [] == overflow(page)


def test_first_key_leads_to_the_content_and_focus_is_seen(browser, site):
    with opened(browser) as page:
        page.goto(f"{site.url}/pools/media/")
        page.keyboard.press("Tab")
        assert page.locator(".skip").bounding_box()["y"] >= 0
        page.keyboard.press("Enter")
        assert "main" == page.evaluate("document.activeElement.id")
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert "none" != outline


def test_state_is_a_word_and_a_sign_not_a_colour_alone(browser, site):
    with opened(browser) as page:
        page.goto(f"{site.url}/pools/media/jobs")
        pills = page.locator(".pill").all_inner_texts()
        assert pills
        assert all(len(text.split()) >= 2 and text.split()[0] != text.split()[1] for text in pills)


def test_visitor_who_may_only_look_sees_no_button(browser, site, pools):
    with opened(browser) as page:
        for path in PAGES[:-2]:
            where = address(pools, path)
            page.goto(f"{site.url}/{where}{'&' if '?' in where else '?'}right=read")
            page.locator("h1").first.wait_for()
            buttons = {text.strip() for text in page.locator("button:visible").all_inner_texts()}
            assert buttons <= {"Pause updates", "Search", "Show"}


def test_pages_work_without_scripts(browser, site):
    with opened(browser, java_script_enabled=False) as page:
        page.goto(f"{site.url}/")
        page.get_by_role("link", name="media").first.click()
        assert page.get_by_role("link", name="Refresh").is_visible()
        assert not page.get_by_role("button", name="Pause updates").is_visible()
        page.get_by_role("link", name="Jobs", exact=True).click()
        page.get_by_role("searchbox").fill("films")
        page.keyboard.press("Enter")
        page.locator("nav.states").get_by_role("link", name="Queued").click()
        assert page.url.endswith("?state=queued&q=films")
        page.get_by_role("button", name="Cancel all of these").click()
        assert page.get_by_role("heading", level=1).inner_text().startswith("Cancel 2 queued jobs that match")
        page.get_by_role("link", name="Let them go on").click()
        assert page.url.endswith("?state=queued&q=films")
