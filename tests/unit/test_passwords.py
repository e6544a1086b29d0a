"""Passwords in addresses of databases: never shown, however the address is written."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url

from procjobs.settings.environment import Variable
from procjobs.settings.file import Table
from procjobs.shared.config import PoolSettings
from procjobs.shared.passwords import hide, hide_in
from procjobs.shared.recorder_wire import Open
from procjobs.shared.store_address import split_options

PSYCOPG = "postgresql+psycopg://"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////var/lib/a@b.db?procjobs_synchronous=full", "sqlite:////var/lib/a@b.db?procjobs_synchronous=full"),
        ("sqlite:///jobs.db", "sqlite:///jobs.db"),
        ("postgresql://host/db", "postgresql://host/db"),
        (PSYCOPG + "me@host/db", PSYCOPG + "me@host/db"),
        (PSYCOPG + "me:secret@host:5432/db", PSYCOPG + "me:***@host:5432/db"),
        (PSYCOPG + "me:se%40cret@host/db", PSYCOPG + "me:***@host/db"),
        (PSYCOPG + "me:sec/ret@host/db", PSYCOPG + "me:***@host/db"),
        (PSYCOPG + "me:sec:ret#x@host/db", PSYCOPG + "me:***@host/db"),
        (PSYCOPG + "me:sec@ret@host/db", PSYCOPG + "***@host/db"),
        (PSYCOPG + "me:sec@re/t@host/db?sslmode=on", PSYCOPG + "***@host/db?sslmode=***"),
        (PSYCOPG + "me:sec@ret:x@host:1/db", PSYCOPG + "***@host:1/db"),
        (PSYCOPG + "me:sec?ret@host/db", PSYCOPG + "***"),
        (PSYCOPG + "host/db?user=me&password=secret&sslmode=on", PSYCOPG + "host/db?password=***&sslmode=on&user=me"),
        (PSYCOPG + "host/db?password=sec@ret/x", PSYCOPG + "host/db?password=***"),
        (PSYCOPG + "host:5432/db?password=sec@ret", PSYCOPG + "***"),
        (PSYCOPG + "/db?host=/run&PassWord=secret", PSYCOPG + "/db?host=/run&PassWord=***"),
        (PSYCOPG + "h/db?sslpassword=secret&passfile=/secret", PSYCOPG + "h/db?passfile=***&sslpassword=***"),
        (PSYCOPG + "h/db?dbname=postgresql://me:secret@h/d", PSYCOPG + "h/db?dbname=***"),
        (PSYCOPG + "/?dbname=host=h%20password%3Dsecret", PSYCOPG + "/?dbname=***"),
        ("no-such+driver://me:secret@host/db", "no-such+driver://***@host/db"),
        ("me:secret@host/db?x=secret", "***@host/db?x=***"),
        ("postgresql:/me:secret@host", "***@host"),
        (PSYCOPG + "me:secret@host:port/db", PSYCOPG + "***@host:port/db"),
    ],
)
def test_what_is_shown_of_an_address(url, shown):
    assert shown == hide(url)
    assert shown == hide(shown)
    text = hide_in(f"cannot use {url!r}, or {url}.", url)
    assert "secret" not in text
    assert "ret" not in text.replace("secret", "")


@pytest.mark.parametrize(
    ("url", "error", "shown"),
    [
        (PSYCOPG + "me:pa@ss@host/db", "failed to resolve host 'ss@host': no", "failed to resolve host '***@host': no"),
        (PSYCOPG + "me:a@b:word@h/d", "invalid literal for int(): 'word@h'", "invalid literal for int(): '***@h'"),
        (PSYCOPG + "me:a@b:no/x@h/d", "invalid literal for int(): 'no'", "invalid literal for int(): '***'"),
        (PSYCOPG + "me:word@h/d", "the word is wrong, said 'word'", "the *** is wrong, said '***'"),
        (PSYCOPG + "h/d?password=word", 'no "=" after "word"', 'no "=" after "***"'),
        (PSYCOPG + "me:me@h/me", 'authentication failed for user "me"', 'authentication failed for user "me"'),
        ("", "bad DSN host=h password='a \\' b' user=me", "bad DSN host=h password=*** user=me"),
        ("", "bad DSN passfile=/x, sslpassword = y", "bad DSN passfile=***, sslpassword = ***"),
        ("", "bad URI postgresql://me:p@ss@h/db, see", "bad URI postgresql://***@h/db, see"),
        ("", "see https://sqlalche.me/e/20/e3q8)", "see https://sqlalche.me/e/20/e3q8)"),
        ("", "no such file: sqlite:////x/y.db", "no such file: sqlite:////x/y.db"),
    ],
)
def test_error_of_a_driver_is_cleaned(url, error, shown):
    assert shown == hide_in(error, url)


@pytest.mark.parametrize(
    "url",
    [PSYCOPG + "me:p?q@host/db?procjobs_host=h&sslmode=on", PSYCOPG + "me:p%3Fq@host/db?sslmode=on&procjobs_host=h"],
)
def test_password_with_a_question_mark_is_no_query(url):
    plain, options = split_options(url)
    assert {"procjobs_host": "h"} == options
    parsed = make_url(plain)
    assert ("p?q", "host", {"sslmode": "on"}) == (parsed.password, parsed.host, dict(parsed.query))


def test_no_repr_has_the_address():
    url = PSYCOPG + "me:secret@host/db"
    things = [
        PoolSettings(workers=(1, 1), store=url),
        Open(url, "p", "o", 1.0, 1.0, 1, "{}", 0, [], {}),
        Table("[default]", None, None, {"store": url}),
        Variable("PROCJOBS_STORE", "store", url),
    ]
    assert "secret" not in repr(things)
