"""The password of a store's URL comes out nowhere: not in errors, warnings, the log, statistics or command lines."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
import warnings

import psutil
import pytest

import procjobs
from procjobs.errors import SettingsDiffer
from procjobs.host import rundir
from procjobs.shared import ids
from tests.process import jobs

from ..conftest import wait_until

PSYCOPG = "postgresql+psycopg://"
URLS = [
    PSYCOPG + "me:s3cr3t-w0rd@127.0.0.1:1/db",
    PSYCOPG + "me:s3cr3t/w0rd@127.0.0.1:1/db",
    PSYCOPG + "me:s3cr3t@w0rd@127.0.0.1:1/db",
    PSYCOPG + "me:s3cr3t@w0rd/w0rd@127.0.0.1:1/db",
    PSYCOPG + "me:s3cr3t@h:w0rd@127.0.0.1:1/db",
    PSYCOPG + "me:s3cr3t?w0rd@127.0.0.1:1/db",
    PSYCOPG + "127.0.0.1:1/db?user=me&password=s3cr3t-w0rd",
    PSYCOPG + "127.0.0.1:1/db?user=me&sslpassword=s3cr3t&passfile=/w0rd",
    PSYCOPG + "me@127.0.0.1:1/db?password=s3cr3t@w0rd",
    PSYCOPG + "me@127.0.0.1:1/db?dbname=postgresql://me:s3cr3t@w0rd@127.0.0.1:1/db",
    PSYCOPG + "me@127.0.0.1:1/db?nosuch=option&password=s3cr3t-w0rd",
    "postgresql+nosuch://me:s3cr3t-w0rd@127.0.0.1:1/db",
    "postgresql+pg8000://me:s3cr3t-w0rd@127.0.0.1:1/db",
]
SECRETS = ("s3cr3t", "w0rd")


def found_in(text):
    return [secret for secret in SECRETS if secret in text]


def command(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "procjobs", *arguments], env={**os.environ, **environment}, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.stdout + done.stderr


def told(act):
    """Return all that a failing call shows: the error, its traceback with all causes, and what is left of it in a pickle."""
    try:
        act()
    except Exception as error:  # noqa: BLE001 - of any kind
        return "".join([*traceback.format_exception(error), repr(error), repr(pickle.loads(pickle.dumps(error)))])
    return ""


def is_opened(pool):
    return pool.stats().store not in {None, "unavailable"} and "has not been opened yet" not in pool.stats().store


@pytest.mark.parametrize("url", [*URLS[1:3], URLS[4], URLS[6]])
def test_password_of_a_store_comes_out_nowhere(pool_name, url):
    shown = {}
    pool = procjobs.Pool(pool_name, workers=1, store=url)
    job = pool.submit(jobs.add, 1, 2)
    wait_until(lambda: is_opened(pool), dump=lambda: str(pool.stats()))
    supervisor = psutil.Process(pool.stats().supervisor_pid)
    family = [supervisor, *supervisor.children(recursive=True)]
    shown["ps"] = str([process.cmdline() for process in family])
    shown["stats"] = f"{pool.stats()!r} {pool!r} {pool._link.plan!r} {job!r} {pool.jobs()!r}"
    shown["history"] = told(pool.history)
    shown["status"] = told(lambda: pool.status(ids.to_text(ids.new_id())))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        other = procjobs.Pool(pool_name, store="sqlite:////none.db")
        other.connect()
        other.shutdown()
    shown["warning"] = str([str(one.message) for one in caught])
    assert [SettingsDiffer] == [one.category for one in caught]
    shown["strict"] = told(lambda: procjobs.Pool(pool_name, store="sqlite:////none.db", strict=True).connect())
    for arguments in (["status", pool_name], ["history", pool_name], ["history", pool_name, "--store", url], ["doctor"]):
        shown[" ".join(arguments)] = command(*arguments)
    with open(rundir.RunDir(rundir.find_base(), pool_name).log) as log:
        shown["log"] = log.read()
    pool.stop()
    assert "unavailable since" in shown["stats"]
    assert "StoreUnavailable" in shown["history"]
    assert "StoreUnavailable" in shown["status"]
    assert {} == {place: text for place, text in shown.items() if found_in(text)}


BAD = [
    "postgres://me:s3cr3t@w0rd@host/db",
    "mysql://me:s3cr3t/w0rd@host/db",
    "sqlite://me:s3cr3t@w0rd@host/jobs.db",
    "me:s3cr3t@w0rd@host",
    ["postgresql://me:s3cr3t@w0rd@host/db"],
    PSYCOPG + "me:s3cr3t@w0rd@host/db?procjobs_hots=x",
    PSYCOPG + "me:s3cr3t@w0rd@host/db?procjobs_synchronous=full",
]


@pytest.mark.parametrize("url", BAD, ids=str)
def test_refused_store_does_not_show_its_password(url):
    text = told(lambda: procjobs.Pool("media", store=url))
    assert "ConfigurationError" in text
    assert [] == found_in(text)


@pytest.mark.parametrize("url", [*URLS[::4], *(url for url in BAD if isinstance(url, str))])
def test_settings_are_shown_without_the_password(url, tmp_path):
    (tmp_path / "procjobs.toml").write_text(f'[default]\nstore = "{url}"\n[pool.other]\nstore = ["{url}"]\n')
    (tmp_path / "good.toml").write_text(f'[default]\nstore = "{url}"\n')
    text = command("check", str(tmp_path / "procjobs.toml")) + command("check", "--json", str(tmp_path / "good.toml"))
    text += command("check", str(tmp_path / "good.toml")) + command("check", "--all", PROCJOBS_STORE=url)
    text += command("host", PROCJOBS_CONFIG=str(tmp_path / "good.toml")) + command("host", PROCJOBS_STORE=url)
    text += command("history", "media", "--store", url)
    text += command("host", PROCJOBS_STORE=f"{url}{'&' if '?' in url else '?'}procjobs_x=1")
    assert [] == found_in(text)
    assert "Traceback" not in text
