"""Which variables tell generations of code apart, which are compared, and which are a process's own."""

from __future__ import annotations

import pytest

from procjobs.shared.environment_variables import Patterns, counting, differing, of_workers


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("DB", "DB", True), ("DB", "DB_HOST", False), ("DB_*", "DB_HOST", True), ("DB_*", "ADB_X", False),
        ("*_URL", "X_URL", True), ("*_URL", "X_URLS", False), ("A*Z", "ABCZ", True), ("A*Z", "ABC", False),
        ("*", "ANY", True), ("[AB]_X", "B_X", True), ("[AB]_X", "C_X", False), ("*MID*", "XMIDX", True),
    ],
)  # fmt: skip
def test_patterns(pattern, name, matches):
    assert matches is Patterns([pattern]).match(name)


def test_counting_variables_are_in_order_and_the_user_adds_to_them():
    environment = {"TZ": "UTC", "STRIPE_KEY": "s", "DATABASE_URL": "d", "HOME": "/"}
    assert ["DATABASE_URL", "TZ"] == list(counting(environment))
    assert ["DATABASE_URL", "STRIPE_KEY", "TZ"] == list(counting(environment, ["STRIPE_*"]))


def test_variables_of_one_request_do_not_count():
    assert {} == counting({"REQUEST_URI": "/a", "HTTP_X_URL": "b", "CI_JOB_URL": "c"})
    assert {"REQUEST_URI": "/a"} == counting({"REQUEST_URI": "/a"}, ["REQUEST_URI"])


def test_differing_variables_leave_out_those_that_count_and_those_of_a_session():
    here = {"TZ": "UTC", "STRIPE_KEY": "1", "SHLVL": "2", "OMP_NUM_THREADS": "2", "ONLY_HERE": "", "SAME": "x"}
    there = {"TZ": "CET", "STRIPE_KEY": "2", "SHLVL": "3", "SAME": "x", "ONLY_THERE": ""}
    assert ["ONLY_HERE", "ONLY_THERE", "STRIPE_KEY"] == differing(here, there)


def test_workers_do_not_speak_for_a_service():
    assert {"A": "1"} == of_workers({"A": "1", "NOTIFY_SOCKET": "/run/x", "LISTEN_FDS": "1", "WATCHDOG_USEC": "5"})
