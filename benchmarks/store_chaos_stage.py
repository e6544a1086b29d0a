"""A chapter of store_chaos.py: its processes, what is done to them, and the database that it is done to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter

from chaos_stage import PoolLog
from fault_points import POINTS
from fault_runtime import DIRECTORY, Action, Faults, note
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool
from store_chaos_ledger import Ledger
from store_chaos_plan import UNFINISHED

ACTIONS = ("submit", "cancel", "cancel_id", "commit", "unique", "restart", "leave", "second", "database")
"""What clients do, and two things that the chaos does: a second supervisor, and the database that is away."""
CLIENTS = 2
ROUND_TIMEOUT = 0.6
"""How long a round waits for a fault point to be passed as often as it is to be. Seconds."""
START_TIME = 2.0
"""Within this a supervisor is ready, on a host with enough to do. Seconds."""
WORK_TIMEOUT = 4.0
"""How long a round waits for jobs that are answered; none are where another supervisor has the claim, for instance."""
SETTLE_TIMEOUT = 45.0
OF_POOL = "(pool = :pool OR pool LIKE :pool || '@%')"
TARGETS = ("supervisor", "supervisor", "recorder", "worker", "template", "client", "pool", "pool", "all")
WEIGHTS_OF_ROLES = {"supervisor": 4, "recorder": 5, "worker": 2, "template": 1, "client": 1}


class SqliteDatabase:
    """An SQLite file, which another connection locks."""

    troubles = ("lock",)

    def __init__(self, path):
        self._path = path
        self.url = f"sqlite:///{path}"

    def trouble(self, _kind, seconds):
        connection = sqlite3.connect(self._path, timeout=2.0, isolation_level=None)
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(connection):
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(seconds)
            connection.execute("ROLLBACK")

    def close(self):
        """Do nothing: the file goes with its directory."""


class NoDatabase:
    """Stands for a database where the pool has none."""

    url = None
    troubles = ()

    def close(self):
        """Do nothing."""


class PostgresDatabase:
    """A database on a PostgreSQL server: its tables are locked, its backends ended."""

    troubles = ("lock", "terminate")

    def __init__(self, url):
        self.url = url

    def trouble(self, kind, seconds):
        with contextlib.suppress(SQLAlchemyError), create_engine(self.url, poolclass=NullPool).begin() as connection:
            if kind == "lock":
                connection.execute(text("LOCK TABLE procjobs_jobs IN ACCESS EXCLUSIVE MODE"))
                time.sleep(seconds)
            else:
                others = "datname = current_database() AND pid <> pg_backend_pid()"
                connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))

    def close(self):
        """Do nothing: the server is somebody else's."""


class OwnPostgresDatabase(PostgresDatabase):
    """The same on a server of its own, which is restarted, too."""

    troubles = ("lock", "terminate", "terminate", "restart")

    def __init__(self):
        from tests.databases import PostgresServer

        self._server = PostgresServer()
        super().__init__(self._server.url("postgres"))

    def trouble(self, kind, seconds):
        if kind == "restart":
            self._server.stop("immediate")
            time.sleep(seconds)
            self._server.start()
        else:
            super().trouble(kind, seconds)

    def close(self):
        self._server.remove()


def make_database(store, directory):
    if store == "none":
        return NoDatabase()
    if store == "postgresql":
        return OwnPostgresDatabase()
    if store == "sqlite":
        return SqliteDatabase(f"{directory}/jobs.db")
    return SqliteDatabase(store.removeprefix("sqlite:///")) if store.startswith("sqlite:") else PostgresDatabase(store)


class Chapter:
    """Some rounds with one pool, and the peace after them."""

    def __init__(self, build, database, directory, chance, actions):
        self._build, self._database, self._directory, self._chance = build, database, directory, chance
        self._actions = actions if database.url else [a for a in actions if a in {"submit", "cancel", "leave"}]
        self._pool = f"chaos-{os.getpid()}-{chance.randrange(10**9)}"
        os.environ[DIRECTORY] = directory
        self._bases = [f"{directory}/r", f"{directory}/s"]
        for base in self._bases:
            os.mkdir(base, 0o700)
        self._logs = [PoolLog(f"{base}/{self._pool}/log") for base in self._bases]
        self._faults = Faults(directory, len(POINTS))
        self._clients = [None] * CLIENTS
        self._second = None
        self._engine = create_engine(database.url, poolclass=NullPool) if database.url else None
        self._seen = set()
        self._trouble = None
        self.totals = Counter()
        self.passed = Counter()

    # Rounds ---------------------------------------------------------------------------------------------------

    def run(self, rounds):
        """Return the broken promises."""
        self._keep_clients()
        for _ in range(rounds):
            self._keep_clients()
            self._change_second()
            self._wait_for_work()
            self._pick_disturbance()()
            self._look()
        self._make_peace()
        ledger = Ledger(f"{self._directory}/ledger", *self._read_store(), self._seen)
        found = ledger.examine()
        self.totals = ledger.count()
        self.passed = Counter({number: self._faults.passed(number) for number in range(len(POINTS))})
        return found

    def _pick_disturbance(self):
        choices = {self._use_points: 14, self._kill_any: 3}
        if "database" in self._actions:
            choices |= {self._disturb_database: 3, self._disturb_both: 2}
        return self._chance.choices(list(choices), choices.values())[0]

    def _wait_for_work(self):
        """Wait until some jobs have been answered: what has just been killed is there again, and busy."""
        answers = _number("worker.answers")
        wanted = self._faults.passed(answers) + self._chance.randrange(2, 25)
        self._wait(lambda: self._faults.passed(answers) >= wanted, WORK_TIMEOUT)

    def _keep_clients(self):
        """Start clients in the place of those that were killed."""
        for number, client in enumerate(self._clients):
            if client is None or client.poll() is not None:
                self._clients[number] = self._start_client(self._bases[0], self._client_actions())

    def _client_actions(self):
        return [action for action in self._actions if action not in {"second", "database"}]

    def _start_client(self, base, actions):
        settings = {"pool": self._pool, "store": self._database.url, "base": base, "seed": self._chance.random()}
        environment = {**os.environ, "PYTHONPATH": self._build, "PYTHONDONTWRITEBYTECODE": ""}
        with open(f"{self._directory}/output", "ab") as output:
            return subprocess.Popen(
                [sys.executable, f"{self._build}/store_chaos_client.py", json.dumps({**settings, "actions": actions})],
                env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self._directory,
            )  # fmt: skip

    def _change_second(self):
        """Start a client with a supervisor of its own, in another runtime directory; or end both."""
        if "second" not in self._actions:
            return
        if self._second is None or self._second.poll() is not None:
            if self._chance.random() > 0.12:
                return
            note("second", "begins")
            self._second = self._start_client(self._bases[1], [a for a in self._client_actions() if a != "restart"])
        elif self._chance.random() < 0.35:
            self._end_second()

    def _end_second(self):
        if self._second is not None:
            self._kill(self._second.pid)
            self._second.wait()
            note("second", "ends")
        for pid in self._find("supervisor", self._bases[1]):
            self._kill(pid)

    # Disturbances ---------------------------------------------------------------------------------------------

    def _use_points(self):
        """Arm some fault points, wait until one acts, and let stopped processes go on, or kill them."""
        has_store = self._engine is not None
        weights = {role: n for role, n in WEIGHTS_OF_ROLES.items() if has_store or role != "recorder"}
        roles = self._chance.choices(list(weights), weights.values(), k=self._chance.randint(2, 5))
        numbers = [self._pick_point(role) for role in roles]
        before = {number: self._faults.acted(number)[0] for number in numbers}
        for number in numbers:
            action = self._chance.choices([Action.KILL, Action.STOP, Action.SLEEP], [6, 3, 1])[0]
            passes = self._chance.choice([1, 1, 1, 2, 3, 5, 10])
            self._faults.arm(number, passes, action, self._chance.randrange(20, 600))
        self._wait(lambda: any(self._faults.acted(number)[0] > before[number] for number in numbers), ROUND_TIMEOUT)
        if self._chance.random() < 0.2:
            self._kill_target(self._chance.choice(["pool", "pool", "all"]))
        time.sleep(self._chance.choice([0.0, 0.05, 0.3, 0.8]))
        self._faults.disarm()
        self._release_stopped()

    def _pick_point(self, role):
        """Return a point of a kind of process, more often one that is passed in this chapter."""
        of_role = [number for number, point in enumerate(POINTS) if point.role == role]
        passed = [number for number in of_role if self._faults.passed(number)]
        return self._chance.choice(passed if passed and self._chance.random() < 0.75 else of_role)

    def _release_stopped(self):
        for pid in self._find_stopped():
            if self._chance.random() < 0.5:
                self._kill(pid)
            else:
                os.kill(pid, signal.SIGCONT)

    def _kill_any(self):
        time.sleep(self._chance.random() * 0.1)
        self._kill_target(self._chance.choice(TARGETS))

    def _kill_target(self, target):
        """Kill a target. If it has several processes, all are stopped first, so that none sees another one die."""
        if target in {"pool", "all"}:
            pids = [pid for pid, name in self._processes().items() if target == "all" or name.startswith("procjobs")]
        else:
            found = self._find(target)
            pids = [self._chance.choice(found)] if found else []
        for pid in pids if len(pids) > 1 else ():
            _send(pid, signal.SIGSTOP)
        for pid in pids:
            self._kill(pid)

    def _disturb_database(self):
        seconds = self._chance.choice([0.1, 0.3, 0.8, 1.5])
        self._await_trouble()
        kind = self._chance.choice(self._database.troubles)
        self._trouble = threading.Thread(target=self._database.trouble, args=(kind, seconds))
        self._trouble.start()
        if self._chance.random() < 0.5:
            time.sleep(self._chance.random() * seconds)
            self._kill_target(self._chance.choice(["pool", "pool", "supervisor", "all"]))

    def _disturb_both(self):
        self._disturb_database()
        self._use_points()

    def _await_trouble(self):
        if self._trouble is not None:
            self._trouble.join()
            self._trouble = None

    # Looking --------------------------------------------------------------------------------------------------

    def _look(self):
        """Look into the logs, and into the store for two unfinished jobs of a unique key."""
        for log in self._logs:
            for complaint in log.read():
                self._seen.add(("a complaint in the log", " ".join(complaint[:1500].split())))
        if self._engine is None:
            return
        query = f"SELECT name, count(*) FROM procjobs_jobs WHERE {UNFINISHED} AND unique_until IS NOT NULL GROUP BY name"
        with contextlib.suppress(SQLAlchemyError, OSError):
            for name, count in self._ask(query):
                if count > 1:
                    self._seen.add(("two unfinished jobs of a unique key", f"{count} of {name} in the store"))

    def _ask(self, query):
        with self._engine.connect() as connection:
            return connection.execute(text(query), {"pool": self._pool}).all()

    def _read_store(self):
        if self._engine is None:
            return None, ()
        columns = "id, name, state, reason, attempt, cut_off, finished_at"
        rows = self._ask(f"SELECT {columns} FROM procjobs_jobs WHERE {OF_POOL}")
        of_these = f"SELECT id FROM procjobs_jobs WHERE {OF_POOL}"
        return rows, self._ask(f"SELECT job_id, attempt, ended_at FROM procjobs_attempts WHERE job_id IN ({of_these})")

    def _processes(self):
        """Return {pid: name} of the processes of this chapter."""
        mark = f"{DIRECTORY}={self._directory}".encode()
        found = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
                    if mark in file.read().split(b"\0"):
                        found[int(entry)] = _name(entry)
        return found

    def _find(self, role, base=None):
        """Return the pids of the processes of a kind; of supervisors, those with this base alone."""
        titles = {"supervisor": "procjobs-super", "recorder": "procjobs-record", "template": "procjobs-templ"}
        if role == "client":
            return [client.pid for client in [*self._clients, self._second] if client is not None and client.poll() is None]
        processes = self._processes()
        if role == "worker":
            return [pid for pid, name in processes.items() if name.removeprefix("procjobs-").isdigit()]
        return [pid for pid, name in processes.items() if name == titles[role] and (base is None or _has_open(pid, base))]

    def _find_stopped(self):
        return [pid for pid in self._processes() if _state(pid) == "T"]

    def _kill(self, pid):
        note("killed", pid)
        _send(pid, signal.SIGKILL)

    def _wait(self, condition, timeout):
        deadline = time.monotonic() + timeout
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)

    # Peace ----------------------------------------------------------------------------------------------------

    def _make_peace(self):
        """End all disturbances, let clients hear everything that they are owed, and the pool run what is left."""
        self._faults.disarm()
        self._await_trouble()
        self._end_second()
        with open(f"{self._directory}/settle", "w"):
            pass
        for pid in self._find_stopped():
            _send(pid, signal.SIGCONT)
        # The second client may have been killed while it started a supervisor, which then holds the store and has no code.
        time.sleep(START_TIME)
        self._end_second()
        deadline = time.monotonic() + SETTLE_TIMEOUT
        for client in self._clients:
            self._end_client(client, deadline)
        self._end_client(self._start_client(self._bases[0], ["finish"]), time.monotonic() + SETTLE_TIMEOUT)
        self._wait(lambda: not self._processes(), 10.0)
        for pid, name in self._processes().items():
            self._seen.add(("a process was left", f"{name} ({pid})"))
        self._look()
        with open(f"{self._directory}/output", errors="replace") as file:
            output = file.read()
        if "Traceback" in output:
            self._seen.add(("a client failed", " ".join(output[-1500:].split())))

    def _end_client(self, client, deadline):
        try:
            client.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            self._seen.add(("a client hangs", f"process {client.pid}"))
            self._kill(client.pid)
            client.wait()

    def close(self):
        """Kill whatever is left."""
        self._await_trouble()
        while pids := list(self._processes()):
            for pid in pids:
                _send(pid, signal.SIGKILL)
            for client in [*self._clients, self._second]:
                if client is not None:
                    client.poll()
            time.sleep(0.02)


def _number(name):
    return next(number for number, point in enumerate(POINTS) if point.name == name)


def _send(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _name(pid):
    with open(f"/proc/{pid}/comm") as file:
        return file.read().strip()


def _state(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
    return ""


def _has_open(pid, base):
    """Return whether a process has a file below a directory open: a supervisor has its lock."""
    with contextlib.suppress(OSError):
        return any(os.readlink(f"/proc/{pid}/fd/{fd}").startswith(f"{base}/") for fd in os.listdir(f"/proc/{pid}/fd"))
    return False
