"""Where requests come from: the host that they are for, and the page that has sent them."""

from __future__ import annotations

import pytest

from procjobs.web.access.hosts import LOOPBACK, check_host
from procjobs.web.access.origin import check_origin
from procjobs.web.http import Problem, Request

OURS = "films.example"
SAME = f"https://{OURS}"
# Sec-Fetch-Site, Origin, Authorization -> may it change something? None: the header is not there.
MATRIX = [
    ("same-origin", None, None, True),
    ("same-origin", SAME, None, True),
    ("same-origin", "https://evil.example", None, True),  # a browser says so: whoever can forge it is none
    ("same-site", SAME, None, False),
    ("same-site", None, "Bearer x", False),
    ("cross-site", None, None, False),
    ("cross-site", SAME, None, False),
    ("cross-site", SAME, "Bearer x", False),
    ("none", None, None, False),
    ("", None, None, False),
    ("Same-Origin", None, None, False),
    (None, SAME, None, True),
    (None, f"http://{OURS}", None, True),  # a proxy has taken TLS away
    (None, f"https://{OURS}:443", None, True),
    (None, f"https://{OURS}:8443", None, False),
    (None, "https://FILMS.example", None, True),
    (None, "https://evil.example", None, False),
    (None, "https://evil.example", "Bearer x", False),
    (None, f"https://{OURS}.evil.example", None, False),
    (None, f"https://evil.example/{OURS}", None, False),
    (None, f"https://{OURS}@evil.example", None, False),
    (None, "null", None, False),
    (None, "null", "Bearer x", False),
    (None, "", None, False),
    (None, f"ftp://{OURS}", None, False),
    (None, "https://[", None, False),
    (None, "https://films.example:x", None, False),
    (None, None, None, False),
    (None, None, "Bearer x", True),
    (None, None, "bearer x", True),
    (None, None, "Bearer ", False),
    (None, None, "Basic eDp4", False),
]


def asked(method, site, origin, authorization):
    given = {"host": OURS, "sec-fetch-site": site, "origin": origin, "authorization": authorization}
    return Request(method, "api/1/cancel", headers={name: value for name, value in given.items() if value is not None})


def passes(request):
    try:
        check_origin(request)
    except Problem as problem:
        return problem.status != 403
    return True


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "post", "X"])
def test_what_changes_something_comes_from_here(method):
    decided = [(*row[:3], passes(asked(method, *row[:3]))) for row in MATRIX]
    assert MATRIX == decided


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_only_reads_may_come_from_anywhere(method):
    assert all(passes(asked(method, *row[:3])) for row in MATRIX)


@pytest.mark.parametrize(
    ("host", "allowed", "may"),
    [
        ("localhost", LOOPBACK, True),
        ("localhost:8321", LOOPBACK, True),
        ("LOCALHOST:8321", LOOPBACK, True),
        ("localhost.:80", LOOPBACK, True),
        ("127.0.0.1:8321", LOOPBACK, True),
        ("[::1]:8321", LOOPBACK, True),
        ("evil.example", LOOPBACK, False),
        ("evil.example:8321", LOOPBACK, False),
        ("127.0.0.1.evil.example", LOOPBACK, False),
        ("localhost@evil.example", LOOPBACK, False),
        ("", LOOPBACK, False),
        ("[", LOOPBACK, False),
        ("films.example:8000", ("films.example:8000",), True),
        ("films.example:8001", ("films.example:8000",), False),
        ("a.films.example", (".films.example",), True),
        ("films.example.evil", (".films.example",), False),
        ("evilfilms.example", (".films.example",), False),
        ("anything", None, True),
        ("anything", (), False),
    ],
)
def test_host_is_one_of_ours(host, allowed, may):
    if may:
        check_host(host, allowed)
    else:
        with pytest.raises(Problem) as caught:
            check_host(host, allowed)
        assert 421 == caught.value.status
