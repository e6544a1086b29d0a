"""The connection of a process to the database of a store, for tables of others."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from procjobs import sql
from procjobs.store import consumers


@pytest.fixture
def connection(tmp_path):
    yield sql.connection_to(f"sqlite:///{tmp_path}/store.db")
    consumers.forget_all()


@pytest.fixture
def prepared(connection):
    """The connections that a function has prepared, which makes a table."""
    found = []

    def prepare(opened):
        opened.execute(text("CREATE TABLE IF NOT EXISTS others (n INTEGER)"))
        found.append(opened)

    for _ in range(2):
        connection.prepare(prepare)
    return found


def add_one(opened):
    opened.execute(text("INSERT INTO others VALUES (1)"))
    return opened.scalar(text("SELECT count(*) FROM others"))


def test_a_connection_is_prepared_once_before_it_is_used(connection, prepared):
    assert [] == prepared
    assert [1, 2] == [connection.run(add_one), connection.run(add_one)]
    assert 1 == len(prepared)


def test_a_connection_that_is_open_is_prepared_before_it_is_used_again(connection, request):
    connection.run(lambda opened: None)
    request.getfixturevalue("prepared")
    assert 1 == connection.run(add_one)


def test_each_new_connection_is_prepared_also_in_a_file_that_was_made_anew(connection, prepared, tmp_path):
    connection.run(add_one)
    for path in tmp_path.glob("store.db*"):
        if not path.name.endswith("-holders"):
            path.unlink()
    assert 1 == connection.run(add_one)
    assert 2 == len(prepared)
    connection.close()
    assert 2 == connection.run(add_one)
    assert 3 == len(prepared)
