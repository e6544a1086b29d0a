"""Fixtures of the tests with databases."""

from tests.databases import database_url, own_postgres_server, postgres_server, postgres_url, sqlite_url  # noqa: F401
