"""The steps lead to the tables that the code believes in, from every version on, on every database."""

from __future__ import annotations

import pytest
from sqlalchemy import inspect

import procjobs
from procjobs.store import schema
from procjobs.store.database import open_engine


def described(connection):
    """Return {table: {column: (type, nullable)}} and the names of indexes, as the database has them."""
    found = inspect(connection)
    tables = [name for name in found.get_table_names() if name.startswith("procjobs_")]
    columns = {
        name: {c["name"]: (str(c["type"]).split("(")[0], c["nullable"]) for c in found.get_columns(name)} for name in tables
    }
    return columns, {name: sorted(i["name"] for i in found.get_indexes(name)) for name in tables}


def migrated(url, since):
    with open_engine(url).connect() as connection, connection.begin() as transaction:
        steps = schema.STEPS
        try:
            schema.STEPS, schema.VERSION = steps[:since], since
            schema.migrate(connection)
        finally:
            schema.STEPS, schema.VERSION = steps, len(steps)
        schema.migrate(connection)
        schema.migrate(connection)
        found = described(connection)
        assert [(len(steps),)] == [tuple(row) for row in connection.execute(schema.versions.select())]
        transaction.rollback()
    return found


@pytest.mark.parametrize("since", range(1, len(schema.STEPS) + 1))
def test_every_version_is_brought_to_the_tables_of_this_one(store, since):
    columns, indexes = migrated(store.url, since)
    with open_engine(store.url).connect() as connection, connection.begin() as transaction:
        schema.metadata.create_all(connection)
        expected_columns, expected_indexes = described(connection)
        transaction.rollback()
    names = {table: set(fields) for table, fields in expected_columns.items()}
    assert names == {table: set(fields) for table, fields in columns.items()}
    for table, fields in expected_columns.items():
        for name, (_, nullable) in fields.items():
            assert nullable == columns[table][name][1], (table, name)
    assert expected_indexes == indexes


def test_newer_schema_is_left_alone(store):
    with open_engine(store.url).connect() as connection, connection.begin():
        schema.migrate(connection)
    store.write("UPDATE procjobs_schema SET version = 99")
    with (
        open_engine(store.url).connect() as connection,
        connection.begin(),
        pytest.raises(procjobs.StoreUnavailable, match="Upgrade procjobs"),
    ):
        schema.migrate(connection)
