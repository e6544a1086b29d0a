"""The databases that the other tests rely on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import sqlalchemy

from tests.conftest import wait_until


def test_a_database_is_empty_and_takes_tables(database_url):
    engine = sqlalchemy.create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE things (id INTEGER PRIMARY KEY)"))
    assert ["things"] == sqlalchemy.inspect(engine).get_table_names()
    engine.dispose()


def test_every_test_has_a_database_of_its_own(postgres_server):
    first, second = postgres_server.new_database(), postgres_server.new_database()
    assert first != second
    for name in (first, second):
        postgres_server.drop_database(name)


def test_a_server_of_ones_own_can_crash_and_come_back(own_postgres_server):
    name = own_postgres_server.new_database()
    own_postgres_server.stop("immediate")
    assert not own_postgres_server.is_running()
    own_postgres_server.start()
    assert [] == own_postgres_server.connections(name)


def test_a_server_goes_with_a_test_process_that_is_killed(tmp_path, postgres_server):
    code = (
        "import os, signal, tests.databases as d; s = d.PostgresServer(); print(s.directory, flush=True); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    directory = done.stdout.strip()
    assert directory, done.stderr
    wait_until(lambda: not os.path.exists(directory))


def test_what_is_missing_is_an_error_in_ci_and_a_skip_elsewhere(monkeypatch):
    from tests import databases

    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install postgresql"):
        databases._missing("PostgreSQL")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="apt-get install postgresql"):
        databases._missing("PostgreSQL")
