"""The databases that the conformance suite runs on: SQLite in a file, PostgreSQL as a server of this run's own."""

from __future__ import annotations

import contextlib
import getpass
import glob
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

import procjobs

from ..conftest import wait_until


def _find(program):
    found = shutil.which(program) or next(iter(sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{program}"))), None)
    return None if found is None else os.path.realpath(found)


class PostgreSQL:
    """A server without TCP, in a directory of its own; it refuses to run as root, so as another user where we are."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="pg-", dir="/tmp")
        self.user = getpass.getuser()
        if os.getuid() == 0:
            self.user = next(u for u in ("postgres", "nobody") if u in {entry.pw_name for entry in pwd.getpwall()})
            shutil.chown(self.directory, self.user)
        os.chmod(self.directory, 0o711)
        self._run(_find("initdb"), "-D", f"{self.directory}/data", "-U", "procjobs", "-A", "trust", "--no-sync")
        self.start()

    def _run(self, *command):
        as_user = {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid} if os.getuid() == 0 else {}
        environment = {name: value for name, value in os.environ.items() if name != "PROCJOBS_TEST_RUN"}
        done = subprocess.run(  # the server is no process of a test's, whoever starts it
            command, cwd=self.directory, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            check=False, **as_user,
        )
        assert 0 == done.returncode, done.stderr

    def _control(self, *arguments):
        self._run(_find("pg_ctl"), "-D", f"{self.directory}/data", "-w", "-l", f"{self.directory}/log", *arguments)

    def start(self):
        options = f"-k {self.directory} -c listen_addresses= -c fsync=off -c max_connections=50"
        self._control("start", "-o", options)

    def stop(self, how="immediate"):
        self._control("stop", "-m", how)

    def url(self, database):
        return f"postgresql+psycopg://procjobs@/{database}?host={self.directory}"

    def execute(self, statement, database="postgres"):
        engine = create_engine(self.url(database), poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))

    def close(self):
        with contextlib.suppress(AssertionError):
            self.stop()
        shutil.rmtree(self.directory)


@pytest.fixture(scope="session")
def postgresql():
    if _find("initdb") is None:
        assert "CI" not in os.environ, "PostgreSQL is not installed, and tests that need it must run here"
        pytest.skip("PostgreSQL's initdb is not installed")
    server = PostgreSQL()
    yield server
    server.close()


class Store:
    """A database for one test."""

    def __init__(self, url):
        self.url = url
        self._engine = create_engine(url, poolclass=NullPool)

    def rows(self, statement, **values):
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement), values)]

    def write(self, statement, **values):
        with self._engine.begin() as connection:
            connection.execute(text(statement), values)

    def states(self):
        return dict(self.rows("SELECT state, count(*) FROM procjobs_jobs GROUP BY state"))

    def attempts(self, job):
        query = "SELECT attempt, outcome FROM procjobs_attempts WHERE job_id = :id ORDER BY attempt"
        return self.rows(query, id=job.id)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    if request.param == "sqlite":
        yield Store(f"sqlite:///{tmp_path}/jobs.db")
        return
    server = request.getfixturevalue("postgresql")
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.execute(f"CREATE DATABASE {name}")
    yield Store(server.url(name))
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def started(pool_name, store):
    """Return what starts the pool of the test, or attaches to it; it is stopped at the end."""
    pools = []

    def start(*, is_available=True, **settings):
        pool = procjobs.Pool(pool_name, store=store.url, **{"workers": 2, **settings})
        pools.append(pool)
        if is_available:
            wait_until(lambda: pool.stats().store == "available", dump=lambda: str(pool.stats()))
        return pool

    yield start
    for pool in reversed(pools):
        pool.stop()


def recorder_of(pool):
    """Return the pid of a pool's recorder."""
    import psutil

    def find():
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(pool.stats().supervisor_pid).children()
            return next((c.pid for c in children if c.name() == "procjobs-record"), None)
        return None

    return wait_until(find)
