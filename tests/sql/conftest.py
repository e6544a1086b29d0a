"""Fixtures of the tests with databases."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from tests.databases import database_url, own_postgres_server, postgres_server, postgres_url, sqlite_url  # noqa: F401
from tests.sql.models import Database

COROUTINE_DRIVERS = ["sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg"]


def open_database(request, driver):
    """Return a database with tables, whose `url` is for the driver."""
    if driver.endswith("asyncpg"):
        pytest.importorskip("asyncpg")
    database = Database(request.getfixturevalue("sqlite_url" if driver.startswith("sqlite") else "postgres_url"))
    database.url = sa.make_url(database.url).set(drivername=driver).render_as_string(hide_password=False)
    return database


@pytest.fixture
def database(database_url):  # noqa: F811
    """A database with tables, once of each kind."""
    return Database(database_url)


@pytest.fixture
def pool_settings(database):
    """A private pool of one worker whose jobs use the database."""
    return {"workers": 1, "database": database.url, "preload": ["tests.sql.db_jobs"]}
