"""New tasks for the tests of the rows of task queues, and what is in their rows."""

from __future__ import annotations

import os
import pickle
import secrets
import signal

from sqlalchemy import select, update

from procjobs.compat.taskqueue.settings.queues import QueueSettings
from procjobs.compat.taskqueue.store import tables
from procjobs.compat.taskqueue.store.records import NewTask

SECOND = 1_000_000


def new_queue(mode="push", **settings):
    """A queue of its own for each test: all of them share a database."""
    return QueueSettings(name=f"q-{secrets.token_hex(6)}", mode=mode, **settings)


def push(name=None, **fields):
    values = {"method": "POST", "url": "/work", "headers": (("A", "b"),), "payload": b"x=1", "tag": None}
    return _new(name, "push", values | fields)


def pull(name=None, **fields):
    return _new(name, "pull", {"method": "PULL", "url": "", "headers": (), "payload": b"data", "tag": None} | fields)


def _new(name, mode, fields):
    rest = {"target": None, "eta_usec": tables.now_usec(), "retry": None, "deadline_usec": None, "size": 100}
    return NewTask(name=name, mode=mode, **rest | fields)


def rows_of(database, queue):
    """Return the rows of a queue by name."""
    query = select(tables.tasks).where(tables.tasks.c.queue == queue.name)
    return database.run(lambda connection: {row.name: row for row in connection.execute(query)})


def change(database, queue, name, **values):
    """Change the row of a task, as the sender does, or the passing of time."""
    condition = (tables.tasks.c.queue == queue.name) & (tables.tasks.c.name == name)
    statement = update(tables.tasks).where(condition).values(values)
    assert 1 == database.run(lambda connection: connection.execute(statement).rowcount)


class Child:
    """A child of this process that calls a function as soon as `go` says so, and sends what it has returned."""

    def __init__(self, function):
        begin, self._begin = os.pipe()
        self._result, result = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.read(begin, 1)
                with open(result, "wb") as pipe:
                    pickle.dump(function(), pipe)
            finally:
                os._exit(0)
        os.close(begin)
        os.close(result)

    def go(self):
        os.write(self._begin, b".")
        os.close(self._begin)

    def result(self):
        """Return its answer, when it has ended."""
        with open(self._result, "rb") as pipe:
            answer = pickle.load(pipe)
        os.waitpid(self.pid, 0)
        return answer

    def kill(self):
        """Kill it with SIGKILL, and return when it has ended."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._result)


class LosesAnswer:
    """A database that commits what the first call has done, and loses the answer."""

    def __init__(self, database):
        self._database = database

    def run(self, function):
        self._database.run(function)
        return self._database.run(function)
