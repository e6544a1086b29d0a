"""What templates put into a page, and the page of one job that needs no JavaScript."""

from __future__ import annotations

import html
import re

import jinja2
import pytest

import procjobs
from procjobs.web import progress, progress_wsgi, sign, tag

from ..waiting import wait_until
from . import jobs

JOB = "01900000-0000-7000-8000-000000000000"


def attributes(text):
    """Return the attributes of the progress element in a text, as a browser reads them."""
    [inner] = re.findall(r"<procjobs-progress (.*?)>", text)
    return {name: html.unescape(value) for name, value in re.findall(r'([\w-]+)(?:="(.*?)")?(?: |$)', inner)}


def test_tag_is_put_into_a_template_as_it_is():
    label = "\"><script>alert(1)</script>&'"
    text = jinja2.Environment(autoescape=True).from_string("{{ bar }}").render(bar=tag(JOB, label, then="/?a=1&b=2"))
    assert {"label": label, "src": "/jobs/", "eta": "", "then": "/?a=1&b=2"} == {
        name: value for name, value in attributes(text).items() if name != "job"
    }
    assert text.startswith('<script type="module" src="/jobs/procjobs.js"></script>')
    assert 1 == text.count("<script")


def test_tag_takes_further_attributes():
    more = {"for_": "films", "data_succeeded": "ready", "lang": "de", "poll": True}
    found = attributes(tag(JOB, "Film 7", eta=False, max_age=None, **more))
    assert {"job": JOB, "label": "Film 7", "src": "/jobs/", "for": "films", "data-succeeded": "ready", "lang": "de",
            "poll": ""} == found  # fmt: skip


@pytest.mark.parametrize(("arguments", "error"), [
    ((JOB, ""), procjobs.ConfigurationError),
    (("no id", "Film 7"), procjobs.UnknownJob),
])  # fmt: skip
def test_tag_that_would_not_work_is_refused(arguments, error):
    with pytest.raises(error):
        tag(*arguments)


def test_attribute_whose_name_is_none_is_refused():
    with pytest.raises(procjobs.ConfigurationError, match="x y"):
        tag(JOB, "Film 7", **{"x y": "z"})


@pytest.fixture(params=["asgi", "wsgi"])
def served(request, serve, serve_wsgi, shared_pool):
    """The end user's half of a pool, below a prefix."""
    return serve(progress(shared_pool)) if request.param == "asgi" else serve_wsgi(progress_wsgi(shared_pool))


def test_page_loads_itself_again_until_the_job_has_ended(served, shared_pool, tmp_path):
    job = shared_pool.submit(jobs.stepping, str(tmp_path))
    (tmp_path / "1").touch()
    wait_until(lambda: job.progress() is not None)
    running = served.get("job", id=sign(job), label="Film 7").text
    assert "<title>33% | Film 7</title>" in running
    assert '<noscript><meta http-equiv="refresh" content="3"></noscript>' in running
    assert "step 1" in running
    assert "<form" not in running
    for name in ("2", "3", "end"):
        (tmp_path / name).touch()
    job.result(30)
    ended = served.get("job", id=sign(job), label="Film 7").text
    assert "<title>done | Film 7</title>" in ended
    assert "refresh" not in ended


def test_page_cancels_where_its_link_lets_it(served, shared_pool, tmp_path):
    job = shared_pool.submit(jobs.stepping, str(tmp_path))
    token = sign(job, cancel=True)
    page = served.get("job", id=token, label="Film & 7", lang="fr").text
    assert "<button>Annuler</button>" in page
    fields = {name: html.unescape(value) for name, value in re.findall(r'type="hidden" name="(.*?)" value="(.*?)"', page)}
    back = served.post("api/1/cancel", **fields)
    assert 303 == back.status
    wait_until(lambda: job.status().state == "cancelled")
    page = served.get(back.headers["Location"].lstrip("/")).text
    assert "<title>annulé | Film &amp; 7</title>" in page
    assert "<form" not in page


def test_page_says_why_a_job_has_failed_as_text(served, shared_pool):
    job = shared_pool.submit(jobs.failing, "<script>alert(1)</script>")
    job.wait(30)
    page = served.get("job", id=sign(job), label="<i>Film</i>", headers={"Accept-Language": "de,en"}).text
    assert '<html lang="de">' in page
    assert "ValueError: &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<h1 id=\"label\">&lt;i&gt;Film&lt;/i&gt;</h1>" in page


def test_page_of_an_unknown_job_and_of_a_refused_link(served):
    unknown = served.get("job", id=sign(JOB))
    assert (404, True) == (unknown.status, "not known" in unknown.text)
    refused = served.get("job", id=f"{JOB}.99999999999.AAAA")
    assert (403, True) == (refused.status, "signature" in refused.text)
