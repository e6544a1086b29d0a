"""The examples of access in docs/web.md, run as they are written there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import procjobs.web

DOCUMENT = Path(__file__).parents[2] / "docs" / "web.md"
if not DOCUMENT.is_file():  # where the built wheel is tested
    pytest.skip("the documentation is not here", allow_module_level=True)


def encode(film):
    return film


def run_example(heading, **known):
    """Return the names that the program below a heading has made."""
    text = re.search(rf"^### {heading}$.*?^```python\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)[1]
    names = {"procjobs": procjobs, "encode": encode, **known}
    exec(compile(text, heading, "exec"), names)
    return names


def test_example_of_jobs_lets_their_owner_look_and_cancel(serve, pool):
    names = run_example("Jobs", pool=pool)
    served, job = serve(names["pages"]), names["job"]
    job.result(30)
    asked = [served.get("api/1/status", id=job.id, headers={"X-User": user}).status for user in ("anna", "otto")]
    assert [200, 403] == asked
    post = {"Sec-Fetch-Site": "same-origin", "X-User": "anna"}
    assert {"id": job.id, "cancelled": False} == served.post("api/1/cancel", id=job.id, headers=post).json()


def test_example_of_the_dashboard_tells_users_apart(serve, pool):
    names = run_example("Dashboard and API", pool=pool, USERS={"anna": "reader", "otto": "operator"})
    served = serve(names["dashboard"])

    def ask(method, path, user):
        headers = {"Host": "films.example", "Sec-Fetch-Site": "same-origin", "X-User": user}
        return served.ask(method, path, headers=headers).status

    assert [200, 200, 403] == [ask("GET", "api/1/stats", user) for user in ("anna", "otto", "nobody")]
    assert [403, 200, 403] == [ask("POST", "api/1/pool/pause", user) for user in ("anna", "otto", "nobody")]
    assert [403, 403] == [ask("POST", "api/1/pool/resize?workers=1", user) for user in ("anna", "otto")]
    assert 421 == served.get("api/1/stats").status
