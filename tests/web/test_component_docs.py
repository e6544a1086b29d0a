"""The examples of docs/web.md, run as they are written there, with a job that takes no time."""

from __future__ import annotations

import html
import importlib
import re
import sys
from pathlib import Path

import pytest

from ..waiting import wait_until

DOCUMENT = Path(__file__).parents[2] / "docs" / "web.md"
if not DOCUMENT.is_file():  # where the built wheel is tested
    pytest.skip("the documentation is not here", allow_module_level=True)


def example(heading):
    """Return the program below a heading."""
    return re.search(rf"^### {heading}.*?^```python\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)[1]


@pytest.fixture
def load(tmp_path, monkeypatch, pool_name):
    """Imports a program as `films`, with a pool of this test."""

    def load(text):
        (tmp_path / "films.py").write_text(text.replace('"films"', repr(pool_name)).replace("sleep(1)", "sleep(0)"))
        return importlib.import_module("films")

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PROCJOBS_NICE", "0")  # the workers import a web framework, on a host that has other tests to do
    yield load
    sys.modules.pop("films").pool.stop()


def follow(served):
    """Press the button of the page, and follow the bar that it brings to its end."""
    assert "Encode film 7" in served.get("").text
    page = served.post("").text
    [token] = re.findall(r'<procjobs-progress job="(.*?)"', page)
    [script] = re.findall(r'<script type="module" src="/(.*?)">', page)
    assert "customElements.define" in served.get(script).text
    [link] = re.findall(r'<a href="/(.*?)"', page)
    assert "<h1 id=\"label\">Film 7</h1>" in served.get(html.unescape(link)).text

    def answer():
        return served.get("jobs/api/1/status", id=token)

    wait_until(lambda: answer().json()["jobs"][0]["done"], dump=lambda: answer().text)
    assert "succeeded" == answer().json()["jobs"][0]["state"], answer().text


def test_fastapi_example_runs(load, serve):
    follow(serve(load(example("FastAPI")).app))


def test_flask_example_runs(load, serve_wsgi):
    job, _, _ = example("FastAPI").partition("pool = ")
    follow(serve_wsgi(load(job + example("Flask")).app))
