"""An application's database with a Scheduler on it, and the workers that a test starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
from pydal import DAL

from procjobs.compat.web2py import Scheduler
from tests.compat.web2py_tasks import TASKS
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


class Site:
    """The program that queues tasks: it is this process."""

    def __init__(self, uri, folder):
        self.uri = uri
        self.folder = str(folder)
        self.db = DAL(uri, folder=self.folder, check_reserved=["sqlite", "postgres"])
        self.scheduler = Scheduler(self.db, TASKS)
        self.workers = []

    def start(self, name=None, **options):
        """Start a worker, and return when its row is there."""
        name = name or f"worker-{len(self.workers)}"
        options = {"heartbeat": 1, "worker_name": name, **options}
        log = open(f"{self.folder}/{name}.{len(self.workers)}.log", "w+")  # noqa: SIM115 - the site closes it
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.compat.web2py_worker", self.uri, self.folder, json.dumps(options)],
            cwd=ROOT, stdout=log, stderr=log,
        )  # fmt: skip
        worker.log = log
        self.workers.append(worker)
        wait_until(lambda: name in self.get_workers() or worker.poll() is not None, dump=self.logs)
        return worker

    def queue(self, name, *args, **options):
        """Queue a task and commit; return its id."""
        answer = self.scheduler.queue_task(name, list(args), options.pop("pvars", {}), **options)
        assert {} == answer["errors"]
        self.db.commit()
        return answer["id"]

    def insert(self, **fields):
        """Write a task into the table past the Scheduler; return its id."""
        number = self.db.scheduler_task.insert(**fields)
        self.db.commit()
        return number

    def get_workers(self):
        self.db.commit()
        found = self.scheduler.get_workers()
        self.db.commit()
        return found

    def task(self, number):
        self.db.commit()
        row = self.db.scheduler_task(number)
        self.db.commit()
        return row

    def runs(self, number):
        self.db.commit()
        rows = self.db(self.db.scheduler_run.task_id == number).select(orderby=self.db.scheduler_run.id)
        self.db.commit()
        return list(rows)

    def result(self, number):
        self.db.commit()
        found = self.scheduler.task_status(number, output=True)
        self.db.commit()
        return found

    def wait_for(self, number, *statuses, timeout=60):
        """Wait until a task has one of these statuses; return its row."""
        dump = lambda: f"{self.task(number)}\n{self.logs()}"  # noqa: E731
        wait_until(lambda: self.task(number).status in statuses, timeout=timeout, dump=dump)
        return self.task(number)

    def wait_for_runs(self, number, count, status):
        """Wait until so many runs of a task have a status; return all of them."""
        wait_until(
            lambda: sum(run.status == status for run in self.runs(number)) >= count,
            timeout=60, dump=lambda: f"{self.runs(number)}\n{self.logs()}",
        )  # fmt: skip
        return self.runs(number)

    def logs(self):
        text = []
        for worker in self.workers:
            worker.log.seek(0)
            text.append(worker.log.read())
        return "\n----\n".join(text)

    def close(self):
        for worker in self.workers:
            if worker.poll() is None:
                worker.terminate()
        for worker in self.workers:
            worker.wait(30)
            worker.log.close()
        self.workers.clear()
        self.db.close()


def pids_in(path):
    """Wait for the process ids that tasks have noted in a file; return them."""
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return [int(line) for line in path.read_text().split()]


def is_alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
