"""Real databases for the tests: SQLite files, and PostgreSQL and Redis servers that a test run starts and takes down.

Servers are started where Debian's packages `postgresql` and `redis-server` are installed. Where they are not, what needs
them is skipped, but fails if the environment says CI=true. A server is no child of the test process, so that the check
for what a test leaves behind does not see it; a detached shell takes it down if the test process is killed.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

from procjobs.shared import private_files
from tests.missing import missing

_USER = "postgres"  # the server refuses to run as root
_SETTINGS = ["listen_addresses=", "shared_buffers=16MB", "max_connections=60", "fsync=off", "full_page_writes=off"]
_TAKE_DOWN = 'tail --pid="$1" -f /dev/null 2>/dev/null; shift; directory="$1"; shift; "$@"; rm -rf "$directory"'


def _missing(what):
    missing(f"{what} is not installed (apt-get install postgresql redis-server; pip install '.[test]')")


def _find_postgres_program(name):
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=lambda path: int(path.split("/")[4]))
    return found[-1] if found else shutil.which(name) or _missing("PostgreSQL")


def _environment():
    """Return the environment of a server: without the mark by which a test run's own processes are found."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PROCJOBS_", "PG"))}


def _take_down_with(pid, directory, *command):
    """Have a detached shell stop a server and remove its directory when a process has ended."""
    subprocess.run(
        ["setsid", "--fork", "sh", "-c", _TAKE_DOWN, "take-down", str(pid), directory, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment(),
        check=True,
    )


class PostgresServer:
    """A PostgreSQL server with a directory of its own, reached by a socket in it."""

    def __init__(self):
        importlib.util.find_spec("psycopg") or _missing("psycopg")
        self._initdb, self._pg_ctl = map(_find_postgres_program, ("initdb", "pg_ctl"))
        self.directory = tempfile.mkdtemp(prefix="pg-", dir="/tmp")  # a socket's path has at most 107 characters
        self._as_user = []
        if os.geteuid() == 0:
            account = pwd.getpwnam(_USER)
            os.chown(self.directory, account.pw_uid, account.pw_gid)
            self._as_user = ["setpriv", f"--reuid={_USER}", f"--regid={account.pw_gid}", "--clear-groups"]
        self._data = f"{self.directory}/data"
        self._run(self._initdb, "-D", self._data, "-U", "procjobs", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        with open(f"{self._data}/postgresql.auto.conf", "a") as file:
            for setting in [*_SETTINGS, f"unix_socket_directories={self.directory}"]:
                name, _, value = setting.partition("=")
                file.write(f"{name} = '{value}'\n")
        _take_down_with(os.getpid(), self.directory, *self._as_user, *self._stop_command("immediate"))
        self.start()

    def _run(self, *command):
        # Output goes to a file: the server keeps what it was started with, and a pipe would be read until it ends.
        with open(f"{self.directory}/programs.log", "ab+") as log:
            done = subprocess.run(
                [*self._as_user, *command], cwd=self.directory, env=_environment(), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, check=False,
            )  # fmt: skip
            log.seek(0)
            assert 0 == done.returncode, log.read().decode()

    def _stop_command(self, mode):
        return [self._pg_ctl, "stop", "-w", "-D", self._data, "-m", mode]

    def start(self):
        """Start it, and return when it takes connections."""
        self._run(self._pg_ctl, "start", "-w", "-D", self._data, "-l", f"{self.directory}/server.log")

    def stop(self, mode="fast"):
        """Stop it, and return when it has ended; its data stay. `immediate` is a crash."""
        self._run(*self._stop_command(mode))

    def is_running(self):
        return os.path.exists(f"{self._data}/postmaster.pid")

    def remove(self):
        """Stop it and remove its data."""
        if self.is_running():
            self.stop("immediate")
        shutil.rmtree(self.directory)

    def url(self, database):
        """Return the SQLAlchemy URL of one of its databases."""
        return f"postgresql+psycopg://procjobs@/{database}?host={self.directory}"

    def execute(self, statement, database="postgres"):
        """Run one statement outside any transaction, on a connection of its own."""
        import psycopg

        with psycopg.connect(f"host={self.directory} user=procjobs dbname={database}", autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def new_database(self):
        """Create an empty database and return its name."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def drop_database(self, name):
        """Drop a database, whoever may be connected to it."""
        if self.is_running():
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def connections(self, database):
        """Return the process ids of those connected to a database."""
        return [pid for (pid,) in self.execute(f"SELECT pid FROM pg_stat_activity WHERE datname = '{database}'")]


@pytest.fixture(scope="session")
def postgres_server():
    """The PostgreSQL server of this test process; do not stop it, others use it (see `own_postgres_server`)."""
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture
def own_postgres_server():
    """A PostgreSQL server for one test, which may stop, crash and start it."""
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture
def postgres_url(postgres_server):
    """The URL of an empty PostgreSQL database."""
    name = postgres_server.new_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture
def sqlite_url(tmp_path):
    """The URL of an empty SQLite file: procjobs itself makes one only where the pool of a store is started."""
    os.close(private_files.open_or_create(f"{tmp_path}/database.sqlite"))
    return f"sqlite:///{tmp_path}/database.sqlite"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request):
    """The URL of an empty database, once of each kind."""
    return request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")


class RedisServer:
    """A Redis server that listens on a free port of this host and keeps nothing on disk."""

    def __init__(self):
        program = shutil.which("redis-server") or _missing("redis-server")
        self.directory = tempfile.mkdtemp(prefix="redis-", dir="/tmp")
        self.port = _free_port()
        self._pid_file = f"{self.directory}/pid"
        subprocess.run(
            [program, "--daemonize", "yes", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly",
             "no", "--dir", self.directory, "--pidfile", self._pid_file, "--logfile", f"{self.directory}/log"],
            env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        _take_down_with(os.getpid(), self.directory, "sh", "-c", f'kill "$(cat {self._pid_file})"')

    def remove(self):
        """End it; the detached shell removes its directory."""
        import redis

        redis.Redis(port=self.port).shutdown(nosave=True)


def _free_port():
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture(scope="session")
def redis_server():
    """The Redis server of this test process."""
    importlib.util.find_spec("redis") or _missing("redis for Python")
    server = RedisServer()
    from tests.conftest import wait_until

    wait_until(lambda: "Ready to accept" in Path(f"{server.directory}/log").read_text())
    yield server
    server.remove()
