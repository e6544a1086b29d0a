"""What a request gives is checked before anything is done, and the answer names what is wrong."""

from __future__ import annotations

import pytest

pytest.importorskip("jsonschema")
from procjobs.web.api import parameters

from .api_site import DESCRIBED, Api

SOME_ID = "01900000-0000-7000-8000-000000000000"


class Untouched:
    """A pool that must not be asked."""

    name = "untouched"


@pytest.fixture
def api():
    return Api(Untouched())


@pytest.mark.parametrize(
    ("method", "path", "given", "named"),
    [
        ("GET", "jobs", {"limit": "0"}, "limit"),
        ("GET", "jobs", {"limit": "501"}, "limit"),
        ("GET", "jobs", {"limit": "\u0663"}, "limit"),
        ("GET", "jobs", {"limit": ["5", "6"]}, "limit"),
        ("GET", "jobs", {"state": "broken"}, "state"),
        ("GET", "jobs", {"before": "1"}, "before"),
        ("GET", "jobs", {"stat": "failed"}, "stat"),
        ("GET", "jobs", {"q": "x" * 201}, "q"),
        ("GET", "history", {"since": "yesterday"}, "since"),
        ("GET", "history", {"since": "nan"}, "since"),
        ("GET", "history", {"since": "1e300"}, "since"),
        ("GET", "schedules", {"upcoming": "101"}, "upcoming"),
        ("POST", "pool/resize", {}, "workers"),
        ("POST", "pool/resize", {"workers": "many"}, "workers"),
        ("POST", "pool/drain", {"hand_over": "perhaps"}, "hand_over"),
        ("POST", "jobs/cancel", {"ids": "x"}, "ids"),
        ("POST", "jobs/cancel", {"ids": [SOME_ID] * 1001}, "ids"),
        ("POST", "jobs/cancel", {}, "ids"),
        ("POST", "jobs/cancel", {"state": "succeeded"}, "state"),
        ("POST", "jobs/retry", {"state": "running"}, "state"),
        ("POST", "jobs/retry", {"ids": SOME_ID, "confirm": "-1"}, "confirm"),
    ],
)  # fmt: skip
def test_bad_parameter_is_named_and_nobody_is_asked(api, method, path, given, named):
    problem = api.problem(method, path, 400, **{"query" if method == "GET" else "form": given})
    assert problem["error"]["detail"].startswith(f"{named}: "), problem
    if method == "POST":
        assert problem == api.problem(method, path, 400, body=given)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ([], 400, "no JSON object"),
        ({"workers": {"a": 1}}, 400, "workers: an object"),
        ({"workers": [[1]]}, 400, "a list of"),
    ],
)
def test_odd_json_is_refused(api, body, status, said):
    assert said in api.problem("POST", "pool/resize", status, body=body)["error"]["detail"]


def test_body_of_another_kind_is_refused(api):
    headers = {"host": "localhost", "sec-fetch-site": "same-origin", "content-type": "text/plain"}
    answer = api.site.answer(parameters_request(headers, b"workers=2"))
    assert 415 == answer.status
    headers["content-type"] = "application/json"
    assert 400 == api.site.answer(parameters_request(headers, b"{")).status


def parameters_request(headers, body):
    from procjobs.web.http import Request

    return Request("POST", "api/1/pool/resize", headers=headers, body=body)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-07-01T06:00:00Z", 1782885600.0),
        ("2026-07-01T08:00:00+02:00", 1782885600.0),
        ("2026-07-01T08:00:00 02:00", 1782885600.0),  # a plus sign that was not escaped
        ("2026-07-01T06:00", 1782885600.0),
        ("1782885600", 1782885600.0),
    ],
)
def test_times_are_iso_or_unix(given, expected):
    assert expected == parameters.moment("since", "").read(given)


@pytest.mark.parametrize(("given", "expected"), [("4", 4), ("2-8", (2, 8)), ("auto", "auto")])
def test_workers_are_a_number_a_range_or_auto(given, expected):
    assert expected == parameters.workers("workers", "").read(given)


def test_empty_fields_of_a_form_were_not_filled_in():
    known = [parameters.text("name", ""), parameters.integer("limit", "", least=1, most=5, default=3)]
    assert {"name": None, "limit": 3} == parameters.read_values({"name": [""], "limit": [""]}, known)


def test_ids_are_taken_in_every_form_of_writing():
    assert SOME_ID == parameters.read_job_id(SOME_ID.upper().replace("-", ""))


@pytest.mark.parametrize("path", [path for path, found in DESCRIBED["paths"].items() if "{id}" in path])
def test_what_is_no_id_is_no_known_job(api, path):
    for method in DESCRIBED["paths"][path]:
        api.problem(method.upper(), path.strip("/").format(id="x"), 404)
