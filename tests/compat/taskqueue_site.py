"""What the tests of the sender share: a server of `taskqueue_server` in another process, a database, tasks, a pool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

from sqlalchemy import insert, select, update

from procjobs.compat.taskqueue.sender import Destinations, publish
from procjobs.compat.taskqueue.settings.queues import QueueSettings, RetryParameters
from procjobs.compat.taskqueue.store import tables
from procjobs.compat.taskqueue.store.database import open_database
from procjobs.store import own_connection

from ..conftest import wait_until

ROOT = Path(__file__).parents[2]
SECOND = 1_000_000
QUICK = RetryParameters(0.05, 0.05, 0)
"""A retry as soon as it can be told apart."""


class Server:
    """The application's server, and what it has noted."""

    def __init__(self, directory):
        self._path = Path(directory) / "requests"
        self._path.touch()
        command = [sys.executable, "-m", "tests.compat.taskqueue_server", str(self._path)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE)
        self.port = wait_until(self._records)[0]["port"]
        self.url = f"http://127.0.0.1:{self.port}"

    def _records(self):
        return [json.loads(line) for line in self._path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def requests(self, queue, name=None):
        """Return the requests of a queue, or of one of its tasks; `ended` is the time of their answer, None without one."""
        records = self._records()
        ended = {record["ended"]: record["at"] for record in records if "ended" in record}
        found = []
        for record in records:
            if "number" in record:
                record["headers"] = {key.lower(): value for key, value in record["pairs"]}
                record["ended"] = ended.get(record["number"])
                mark = record["headers"].get("x-appengine-queuename"), record["headers"].get("x-appengine-taskname")
                if mark[0] == queue and name in {None, mark[1]}:
                    found.append(record)
        return found

    def wait_for(self, queue, count, name=None, timeout=30.0):
        """Return the requests of a queue as soon as there are so many."""
        found = []

        def are_there():
            found[:] = self.requests(queue, name)
            return len(found) >= count

        wait_until(are_there, timeout=timeout, dump=lambda: f"{len(found)} of {count} requests of {queue}")
        return found

    def release(self, name):
        urllib.request.urlopen(f"{self.url}/release/{name}", timeout=10).close()

    def stop(self):
        self._process.communicate()


class Site:
    """A server and a database with the tables, which a sender may work."""

    def __init__(self, server, store):
        self.server = server
        self.store = store
        self.database = open_database(store)
        self.destinations = Destinations(server.url)

    def close(self):
        """Leave nothing open."""
        own_connection.forget_all()

    def configure(self, *queues, **changes):
        """Publish queues, and other destinations than the server if need be."""
        self.destinations = self.destinations._replace(**changes)
        self.database.run(lambda connection: publish(connection, self.destinations, queues))

    def queue(self, name, **settings):
        """Publish one queue, which is fast and tries again soon unless the settings say otherwise; return its name."""
        self.configure(QueueSettings(name, **{"rate": 1000.0, "bucket_size": 100, "retry": QUICK, **settings}))
        return name

    def add(self, queue, url="/ok", name=None, *, count=1, delay=0.0, **columns):
        """Add tasks, which are due in `delay` seconds; return the name of the first one."""
        moment = tables.now_usec()
        names = [name or f"task-{os.urandom(6).hex()}" for _ in range(count)]
        eta = moment + round(delay * SECOND)
        row = {
            "queue": queue, "state": "waiting", "mode": "push", "method": "POST", "url": url, "target": None,
            "headers": "[]", "payload": None, "eta_usec": eta, "posted_eta_usec": eta, "added_usec": moment,
            "retry_count": 0, "execution_count": 0, "retry": None, "deadline_usec": None, "call": "test", "size": 1,
            **columns,
        }  # fmt: skip
        rows = [{**row, "name": each} for each in names]
        self.database.run(lambda connection: connection.execute(insert(tables.tasks), rows) and None)
        return names[0]

    def task(self, name):
        """Return the row of a task."""
        query = select(tables.tasks).where(tables.tasks.c.name == name)
        return self.database.run(lambda connection: connection.execute(query).one())

    def queue_row(self, name):
        query = select(tables.queues).where(tables.queues.c.name == name)
        return self.database.run(lambda connection: connection.execute(query).one())

    def change(self, name, **values):
        """Change the row of a task."""
        change = update(tables.tasks).where(tables.tasks.c.name == name).values(values)
        self.database.run(lambda connection: connection.execute(change) and None)

    def wait_for_end(self, name, timeout=30.0):
        """Return the row of a task when it has ended."""
        return wait_until(lambda: (row := self.task(name)).state == "ended" and row, timeout=timeout)


def find_full_window(times, rate, size, slack=0.0):
    """Return the first window with more starts than a bucket allows, None where there is none."""
    times = sorted(times)
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            window = times[last] - begin + slack
            if last - first + 1 > size + rate * window:
                return last - first + 1, window
    return None
