"""The pages of the dashboard as a server sends them: what is on them, for whom, and in which words."""

from __future__ import annotations

import doctest
import re
from itertools import pairwise
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from procjobs import PoolNotRunning, TrendPoint
from procjobs.web import app, wsgi
from procjobs.web.dashboard import charts, series, words
from procjobs.web.dashboard.memory import PoolMemory

from .invented import HOSTILE, InventedPool
from .pages_site import PagesSite

TABS = ("jobs", "workers", "queues", "schedules", "history", "settings")


@pytest.fixture(scope="module")
def invented():
    return InventedPool()


@pytest.fixture(scope="module")
def site(invented):
    return PagesSite(invented)


def forms_of(html):
    """Return the forms of a page as (method, path, {field: values})."""
    found = []
    for attributes, inner in re.findall(r"<form ([^>]*)>(.*?)</form>", html, re.DOTALL):
        given = dict(re.findall(r'(\w+)="([^"]*)"', attributes))
        fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', inner)
        found.append((given["method"], given["action"], {name: [v for n, v in fields if n == name] for name, _ in fields}))
    return found


@pytest.mark.parametrize("module", [words, charts], ids=lambda module: module.__name__)
def test_examples_in_the_code_are_true(module):
    results = doctest.testmod(module)
    assert (0, True) == (results.failed, results.attempted > 0)


def test_pool_is_described_in_words(invented):
    stats = invented.stats()
    assert "All 6 workers are busy, 14 jobs wait, the oldest for 2.3 s, 3 jobs for later." == words.work_line(stats)
    quiet = stats._replace(workers=4, busy=2, queued=1, oldest_waiting=0.0, scheduled=0)
    assert "2 of 4 workers are busy, 1 job waits." == words.work_line(quiet)
    assert "No worker runs, no job waits." == words.work_line(quiet._replace(workers=0, busy=0, queued=0))


@pytest.mark.parametrize(
    ("changes", "state", "sign", "part"),
    [
        ({}, "running", "well", None),
        ({}, "killed", "trouble", "it was killed"),
        ({}, "not answering", "trouble", "stopped by a signal"),
        ({"problem": "preload of 'films' failed: no module\nTraceback"}, "degraded", "trouble", "failed: no module"),
        ({"paused": True}, "paused", "paused", "until somebody resumes it"),
        ({"draining": True}, "draining", "warning", "takes no more jobs"),
        ({"store": "not reachable since 12:00"}, "running", "warning", "not reachable since 12:00"),
    ],
)
def test_state_of_a_pool_is_a_sign_a_word_and_sentences(invented, changes, state, sign, part):
    found, word, lines = words.health(invented.stats()._replace(**changes), state)
    assert sign == found
    assert word
    assert (part is None) == (not lines)
    assert part is None or part in " ".join(lines)
    assert "Traceback" not in " ".join(lines)


def test_line_of_a_chart_has_a_gap_where_nothing_is_known():
    picture = charts.line([(0.0, 1.0), (1.0, None), (2.0, 3.0), (3.0, 4.0)], name="<x>", since=0.0, until=3.0, top=4.0)
    assert 2 == picture.count('class="line"')
    assert 'aria-label="&lt;x&gt;"' in picture
    assert "style=" not in picture


def test_long_lines_are_thinned_to_their_means():
    thinned = charts.thin([(float(at), float(at % 2)) for at in range(7200)])
    assert charts.MAX_POINTS == len(thinned)
    assert {0.5} == {value for _, value in thinned}


def test_throughput_is_the_slope_of_the_counter():
    def point(at, finished):
        return TrendPoint(at, finished, 0, 0, 0, 1, 0.0)

    rates = series.throughput([point(0, 0), point(5, 10), point(10, 0), point(15, 20), point(15.1, 21)])
    assert [(5, 2.0), (10, None), (15, 4.0)] == rates  # the counter began anew; the last span is too short to say anything


def test_value_holds_while_a_pool_sleeps(invented):
    asleep = [TrendPoint(at, 0, 0, queued, 0, 1, 0.0) for at, queued in ((0, 0), (1000, 8), (1005, 8))]
    waiting = series.pool_charts(asleep, [], None, 1005.0)[1].picture
    path = re.search(r'class="line"[^>]* d="([^"]+)"', waiting)[1]
    heights = [float(y) for y in re.findall(r"[ML]?[\d.]+ ([\d.]+)", path)]
    assert 1 == sum(abs(b - a) > 1 for a, b in pairwise(heights))
    assert heights[0] == heights[1] > heights[2]


def test_use_of_the_cpu_is_measured_between_two_looks(invented):
    moments = iter([0.0, 0.5, 2.0])
    memory = PoolMemory(lambda: next(moments))
    usage = invented.usage()
    uses = iter([usage._replace(at=100.0, cpu_seconds=50.0), usage._replace(at=102.0, cpu_seconds=53.0)])
    pool = type("Pool", (), {"usage": lambda self, pss: next(uses)})()
    memory.sample_usage(pool)
    memory.sample_usage(pool)  # too soon: not measured
    _, samples = memory.sample_usage(pool)
    assert [None, 150.0] == [sample.cpu_percent for sample in samples]


@pytest.mark.parametrize("path", ["", "pools/media/", *(f"pools/media/{tab}" for tab in TABS)])
def test_page_has_its_landmarks_and_nothing_inline(site, path):
    answer = site.get(path)
    assert 200 == answer.status
    for needed in ('class="skip"', "<main", "<header", "<nav", "<h1>", 'lang="en"'):
        assert needed in answer.text or path == ""  # the page of all pools has no tabs
    assert not re.search(r"\sstyle=|<style|\son\w+=|<script(?! type=\"module\" src=)|javascript:", answer.text)
    assert "no-store" == answer.header("Cache-Control")


@pytest.mark.parametrize("path", ["", "pools/media/", *(f"pools/media/{tab}" for tab in TABS)])
def test_live_parts_of_a_page_are_sent_alone(site, path):
    page = site.get(path).text
    parts = site.get(path, fragment="1").json()["parts"]
    assert set(parts) == set(re.findall(r'data-live="(\w+)"', page))
    assert "fragment" not in page


def test_parts_that_are_as_the_visitor_has_them_are_not_sent(site):
    first = site.get("pools/media/settings", fragment="1")
    again = site.get("pools/media/settings", fragment="1", etag=first.header("ETag"))
    assert (304, b"") == (again.status, again.body)
    assert 200 == site.get("pools/media/settings", fragment="1", etag='"other"').status


@pytest.mark.parametrize(
    ("right", "actions"),
    [
        ("read", set()),
        ("operate", {"ask", "cancel", "retry", "run", "pause", "resume"}),
        ("admin", {"ask", "cancel", "retry", "run", "pause", "resume", "reload", "resize"}),
    ],
)
def test_forms_are_those_that_the_visitor_has_the_right_to(site, invented, right, actions):
    found = set()
    ids = [next(job.id for job in invented.all if job.state == state) for state in ("running", "failed")]
    pages = ["", "pools/media/", *(f"pools/media/{tab}" for tab in TABS), *(f"pools/media/jobs/{one}" for one in ids)]
    for path in pages:
        forms = forms_of(site.get(path, right=right).text)
        assert all(fields["next"][0] in {path, "pools/media/jobs"} for method, _, fields in forms if method == "post")
        found |= {action.rpartition("/")[2] for _, action, fields in forms if "next" in fields}
    assert actions - {"cancel"} == found - {"cancel"}


def test_page_says_that_one_may_only_look(site):
    assert "You may look" in site.get("pools/media/jobs", right="read").text
    assert "You may look" not in site.get("pools/media/jobs").text


def test_jobs_are_listed_by_state_search_and_page(site, invented):
    def listed(**query):
        html = site.get("pools/media/jobs", **query).text
        return re.findall(r'data-key="job-([0-9a-f-]+)"', html), html

    ids, html = listed()
    assert [job.id for job in invented.all[:50]] == ids
    older = urlsplit(re.search(r'rel="next" href="([^"]+)"', html)[1]).query
    before = parse_qs(older)["before"][0]
    assert [job.id for job in invented.all[50:]] == listed(before=before)[0]
    assert {"failed"} == {invented.status(one).state for one in listed(state="failed")[0]}
    assert {"mail.send"} == {invented.status(one).name for one in listed(q="mail.send")[0]}
    assert "No such job here" in listed(q="nothing like this")[1]


@pytest.mark.parametrize(
    ("what", "query", "question", "count"),
    [
        ("cancel-all", {"state": "queued"}, "Cancel 14 queued jobs?", 14),
        ("retry-all", {"state": "failed"}, "Retry 6 failed jobs?", 6),
        ("cancel-all", {"state": "queued", "q": "mail"}, "Cancel 3 queued jobs that match “mail”?", 3),
    ],
)
def test_question_about_many_jobs_says_how_many_and_names_each(site, what, query, question, count):
    html = site.get("pools/media/ask", what=what, next="pools/media/jobs", **query).text
    [(method, action, fields)] = forms_of(html)
    assert question in html
    assert ("post", f"/api/1/jobs/{what.removesuffix('-all')}") == (method, action)
    assert ([str(count)], count) == (fields["confirm"], len(fields["ids"]))
    assert ["pools/media/jobs"] == fields["next"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"what": "erase"}, 404),
        ({"what": "cancel-all", "state": "succeeded"}, 400),
        ({"what": "cancel-all"}, 400),
        ({"what": "drain", "next": "//elsewhere.example"}, 400),
        ({"what": "cancel", "id": "01900000-0000-7000-8000-000000000000"}, 404),
    ],
)
def test_question_that_makes_no_sense_is_not_asked(site, query, status):
    answer = site.get("pools/media/ask", **query)
    assert (status, []) == (answer.status, forms_of(answer.text))


def test_question_is_not_asked_of_those_who_may_not_do_it(site):
    answer = site.get("pools/media/ask", what="drain", right="operate")
    assert (403, []) == (answer.status, forms_of(answer.text))


def test_arguments_are_shown_only_where_the_application_says_so(invented):
    path = f"pools/media/jobs/{invented.all[0].id}"
    texts = {
        shows: PagesSite(invented, show_arguments=shows).get(path).text
        for shows in (False, True, lambda _, text: text.replace("metropolis", "***"))
    }
    hidden, shown, masked = texts.values()
    assert "metropolis.mov" not in hidden
    assert "metropolis.mov" in shown
    assert ("metropolis.mov" in masked, "***.mov" in masked) == (False, True)


def test_text_of_jobs_is_text():
    pool = InventedPool(hostile=True)
    hostile = [job for job in pool.all if job.name == HOSTILE]
    site = PagesSite(pool)
    for path in ("pools/media/", "pools/media/jobs", *(f"pools/media/jobs/{job.id}" for job in hostile)):
        html = site.get(path).text
        assert "&lt;img src=x onerror=" in html
        assert not re.search("<img|<script>|[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", html)
        assert len(html) < 200_000


def test_pool_that_cannot_be_read_is_told_about_and_looked_for_again():
    class Gone(InventedPool):
        def stats(self):
            raise PoolNotRunning("pool 'media' is not running")

    site = PagesSite([Gone(), InventedPool("mail")])
    assert "pool &#39;media&#39; is not running" in site.get("").text
    answer = site.get("pools/media/queues")
    assert 503 == answer.status
    assert 'data-live="alert"' in answer.text
    assert {"alert"} == set(site.get("pools/media/queues", fragment="1").json()["parts"])
    assert 404 == site.get("pools/none/").status


def test_links_and_forms_stay_below_the_mount(serve, serve_wsgi, invented):
    mounted = Starlette(routes=[Mount("/ops/queue", app(invented, authorize=lambda _: "admin"))])
    alone = wsgi(invented, authorize=lambda _: "admin")
    for prefix, site in (("/", serve_wsgi(alone)), ("/ops/queue/", serve(mounted, "/ops/queue"))):
        html = site.get("pools/media/jobs").text
        targets = re.findall(r'(?:href|src|action)="([^"#]+)"', html)
        assert targets
        assert [] == [target for target in targets if not target.startswith(prefix)]
        assert 200 == site.get("pools/media/workers").status
