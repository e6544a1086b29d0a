"""Participants whose jobs outlive their processes: procjobs with a store, Huey on SQLite, Celery on a Redis that writes."""

from __future__ import annotations

import os
import sys
import tempfile

from peers import Peer
from services import CeleryRedis, Service

PLAIN, FULL, SERVER = "procjobs, SQLite", "procjobs, SQLite, synchronous=FULL", "procjobs, PostgreSQL"
HUEY, LATE, EARLY = "Huey, SQLite", "Celery, Redis, acks_late", "Celery, Redis"
ADDRESS = "PROCJOBS_BENCHMARK_POSTGRESQL"


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
    def address(self):
        if ADDRESS not in os.environ:
            raise RuntimeError(f"{ADDRESS} has no URL of a database that may be written")
        return os.environ[ADDRESS]


class Huey(Service):
    """Huey with two worker processes and its own SQLite storage, which is durable when a call returns."""

    distribution = "huey"
    module = "huey"
    scale = 0.1

    def start(self):
        try:
            import huey  # noqa: F401 - told as missing here, not by its consumer's log
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
        for handle in handles:
            handle.get(blocking=True, timeout=60, backoff=1.0, max_delay=0.002)


class CeleryEarly(CeleryRedis):
    """Celery on a Redis that appends each write to a file, and syncs that every second."""

    redis_options = ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec")

    def submit_durably(self, function):
        return self.submit(function)


class CeleryLate(CeleryEarly):
    """The same; a task is taken off the queue when it has ended."""

    acks_late = True


STORES: dict[str, type[Peer]] = {
    PLAIN: Stored, FULL: StoredFull, SERVER: StoredOnServer, HUEY: Huey, EARLY: CeleryEarly, LATE: CeleryLate,
}  # fmt: skip
