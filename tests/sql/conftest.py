"""Fixtures of the tests with databases."""

from __future__ import annotations

import pytest

import procjobs
from tests.databases import database_url, own_postgres_server, postgres_server, postgres_url, sqlite_url  # noqa: F401
from tests.sql.models import Database


@pytest.fixture
def database(database_url):  # noqa: F811
    """A database with tables, once of each kind."""
    return Database(database_url)


@pytest.fixture
def pool(database):
    """A private pool of one worker whose jobs use the database."""
    pool = procjobs.Pool(workers=1, database=database.url, preload=["tests.sql.db_jobs"])
    yield pool
    pool.stop()
