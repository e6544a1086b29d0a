"""The participants with durable jobs: procjobs with a store, Huey on SQLite, Celery on a Redis that appends to a file,
Procrastinate on PostgreSQL."""

from __future__ import annotations

import os
import sys
import tempfile
import time

from peers import Peer
from services import CeleryRedis, PostgresServer, Service

PLAIN, FULL, SERVER = "procjobs, SQLite", "procjobs, SQLite, synchronous=FULL", "procjobs, PostgreSQL"
HUEY, LATE, EARLY = "Huey, SQLite", "Celery, Redis, acks_late", "Celery, Redis"
PROCRASTINATE = "Procrastinate, PostgreSQL"


class Stored(Peer):
    """procjobs with a store; a submission is acknowledged when `wait_accepted` returns."""

    distribution = "procjobs"
    module = "procjobs"
    options = ""

    def address(self):
        self.directory = tempfile.TemporaryDirectory(prefix="store-", dir=os.getcwd())  # /tmp may be memory
        return f"sqlite:///{self.directory.name}/jobs.db{self.options}"

    def start(self):
        import procjobs

        self.pool = procjobs.Pool(workers=self.workers, store=self.address())
        self.submit = self.pool.submit

    def submit_durably(self, function):
        job = self.pool.submit(function)
        job.wait_accepted()
        return job

    def close(self):
        super().close()
        if hasattr(self, "directory"):
            self.directory.cleanup()


class StoredFull(Stored):
    options = "?procjobs_synchronous=full"


class StoredOnServer(Stored):
    """procjobs on a PostgreSQL server of its own, with the defaults of Debian's package."""

    def address(self):
        self.server = PostgresServer()
        return f"postgresql+psycopg://benchmark@/postgres?host={self.server.directory}"

    def close(self):
        super().close()
        self.server.close()


class Huey(Service):
    """Huey with two worker processes and its SQLite storage; a task is durable when its call returns."""

    distribution = "huey"
    module = "huey"
    scale = 0.1

    def start(self):
        try:
            import huey  # noqa: F401 - a missing package should fail here, not only in the log of Huey's consumer
        except ModuleNotFoundError as error:
            raise RuntimeError("huey is not installed") from error
        self.open_directory()
        path = os.environ["PROCJOBS_BENCHMARK_HUEY"] = f"{self.directory}/huey.db"
        options = ["-w", str(self.workers), "-k", "process", "-d", "0.001", "-m", "0.01", "--quiet"]
        self.launch(sys.executable, "-m", "huey.bin.huey_consumer", "huey_app.app", *options)
        import huey_app

        self.tasks = huey_app.make_tasks(path)

    def submit(self, function, *args):
        return self.tasks[function.__name__](*args)

    submit_durably = submit

    def wait_all(self, handles):
        """Wait until all results are stored. Fetching each result, the usual way, would make Huey 20 times slower."""
        storage = self.tasks["noop"].huey.storage
        while storage.result_store_size() < len(handles):
            time.sleep(0.005)
        storage.flush_results()


class CeleryEarly(CeleryRedis):
    """Celery on a Redis that appends each write to a file, and syncs the file every second."""

    redis_options = ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec")

    def submit_durably(self, function):
        return self.submit(function)


class CeleryLate(CeleryEarly):
    """The same, but a task leaves the queue only when it has ended."""

    acks_late = True


class Procrastinate(Service):
    """Procrastinate with two worker processes, on the same kind of server as procjobs. It keeps no results."""

    distribution = "procrastinate"
    module = "procrastinate"
    scale = 0.1

    def start(self):
        try:
            import procrastinate  # noqa: F401 - a missing package should fail here, not only in the log of its worker
        except ModuleNotFoundError as error:
            raise RuntimeError("procrastinate is not installed") from error
        self.open_directory()
        self.server = PostgresServer()
        address = f"host={self.server.directory} user=benchmark dbname=postgres"
        os.environ["PROCJOBS_BENCHMARK_PROCRASTINATE"] = address
        import procrastinate_app

        self.app, self.tasks = procrastinate_app.open_app(address)
        self.app.schema_manager.apply_schema()
        for _ in range(self.workers):
            options = ["worker", "--concurrency", "1", "--fetch-job-polling-interval", "0.05"]
            self.launch(sys.executable, "-m", "procrastinate", "--app", "procrastinate_app.app", *options)
        self.done = 0

    def submit(self, function, *args):
        return self.tasks[function.__name__].defer()

    submit_durably = submit

    def wait_all(self, handles):
        """Wait until all jobs have succeeded, by counting the successful jobs in the database."""
        self.done += len(handles)
        while self.app.connector.execute_query_one(query=COUNT)["count"] < self.done:
            time.sleep(0.005)

    def close(self):
        super().close()
        self.app.close()
        self.server.close()


COUNT = "SELECT count(*) AS count FROM procrastinate_jobs WHERE status = 'succeeded'"
STORES: dict[str, type[Peer]] = {
    PLAIN: Stored, FULL: StoredFull, SERVER: StoredOnServer, HUEY: Huey, EARLY: CeleryEarly, LATE: CeleryLate,
    PROCRASTINATE: Procrastinate,
}  # fmt: skip
