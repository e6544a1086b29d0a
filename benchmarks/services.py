"""The participants that need a server: Celery with Redis, and gunicorn's dirty workers. Each starts and ends its server."""

from __future__ import annotations

import atexit
import contextlib
import glob
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from peers import PEERS, Peer

HERE = Path(__file__).parent
START_TIMEOUT = 20.0


class Service(Peer):
    """A peer with processes of its own in a directory of its own."""

    def open_directory(self):
        self.processes = []
        self.directory = tempfile.mkdtemp(prefix="service-")
        atexit.register(self.end)

    def launch(self, *command, **environment):
        with open(f"{self.directory}/log", "ab") as log:
            process = subprocess.Popen(
                command, cwd=HERE, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
            )
        self.processes.append(process)
        return process

    def wait_for(self, path):
        """Return when the file exists; raise an error with the end of the log if a process ends before that."""
        deadline = time.monotonic() + START_TIMEOUT
        while not os.path.exists(path):
            if any(process.poll() is not None for process in self.processes) or time.monotonic() > deadline:
                raise RuntimeError(f"did not start: {Path(self.directory, 'log').read_text().strip()[-300:]}")
            time.sleep(0.01)

    def end(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)
            process.kill()
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def close(self):
        self.end()
        atexit.unregister(self.end)


class PostgresServer:
    """A PostgreSQL server with its defaults, so each commit is on the disk when it returns. Clients use a Unix socket.

    PostgreSQL refuses to run as root. As root this starts it as the user that Debian's package has made.
    """

    def __init__(self):
        programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))
        self.programs = programs[-1] if programs else os.path.dirname(shutil.which("initdb") or "")
        if not self.programs:
            raise RuntimeError("postgresql is not installed")
        self.directory = tempfile.mkdtemp(prefix="pg-", dir="/var/tmp")  # /tmp may be memory
        self.user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        if self.user:
            shutil.chown(self.directory, "postgres", "postgres")
        self.data = f"{self.directory}/data"
        self.run("initdb", "-D", self.data, "-U", "benchmark", "-A", "trust", "--no-sync")
        atexit.register(self.close)
        self.run("pg_ctl", "start", "-w", "-D", self.data, "-l", f"{self.directory}/log", "-o", f"-k {self.directory} -h ''")

    def run(self, program, *arguments):
        command = [f"{self.programs}/{program}", *arguments]
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        subprocess.run(command, check=True, cwd=self.directory, **quiet, **self.user)

    def close(self):
        atexit.unregister(self.close)
        self.run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", self.data)
        shutil.rmtree(self.directory)


class CeleryRedis(Service):
    """Celery's prefork pool behind a Redis on a Unix socket, without persistence, gossip, mingle and heartbeat."""

    distribution = "celery"
    module = "celery"
    get = "get"
    scale = 0.05
    redis_options: tuple[str, ...] = ("--save", "", "--appendonly", "no")
    acks_late = False

    def start(self):
        import celery  # noqa: F401 - a missing package should fail here, not only in the log of Celery's worker
        import redis  # noqa: F401

        server = shutil.which("redis-server")
        if server is None:
            raise RuntimeError("redis-server is not installed")
        self.open_directory()
        path = f"{self.directory}/redis"
        files = ["--dir", self.directory, *self.redis_options]
        self.launch(server, "--port", "0", "--unixsocket", path, *files)
        self.wait_for(path)
        options = ["--pool", "prefork", "--concurrency", str(self.workers), "--loglevel", "ERROR"]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", *options, *quiet]
        late = str(int(self.acks_late))
        self.launch(*command, PROCJOBS_BENCHMARK_REDIS=path, PROCJOBS_BENCHMARK_ACKS_LATE=late)
        import celery_app

        self.app, self.tasks = celery_app.make_app(path)

    def submit(self, function, *args):
        return self.tasks[function.__name__].delay(*args)

    def close(self):
        self.app.close()
        super().close()


class Dirty(Service):
    """gunicorn's dirty workers, called as its web workers call them, but directly from this process."""

    distribution = "gunicorn"
    scale = 0.1
    threads = 4

    def start(self):
        try:
            import gunicorn.dirty as dirty
        except ModuleNotFoundError as error:
            raise RuntimeError("gunicorn 25 or newer is not installed") from error
        self.open_directory()
        path = f"{self.directory}/dirty"
        options = ["--bind", f"unix:{self.directory}/web", "--workers", "1", "--config", "dirty_app.py"]
        apps = ["--no-control-socket", "--dirty-app", "dirty_app:Work", "--dirty-workers", str(self.workers)]
        self.launch(
            sys.executable, "-m", "gunicorn", *options, *apps, "dirty_app:application",
            TMPDIR=self.directory, PROCJOBS_BENCHMARK_DIRTY=path,
        )  # fmt: skip
        self.wait_for(path)
        self.socket = Path(path).read_text()
        self.wait_for(self.socket)
        self.clients = threading.local()
        self.client_of = dirty.DirtyClient
        self.pool = ThreadPoolExecutor(self.threads)
        self.wait_for_workers(dirty.DirtyError)

    def wait_for_workers(self, error):
        """Return when a worker answers: the socket is there earlier than the workers."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self.execute("noop")
            except error:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def execute(self, name, *args):
        client = getattr(self.clients, "client", None)
        if client is None:
            client = self.clients.client = self.client_of(self.socket)
        return client.execute("dirty_app:Work", name, *args)

    def submit(self, function, *args):
        """Call `execute` in a thread, because dirty workers have no submit()."""
        return self.pool.submit(self.execute, function.__name__, *args)

    def run_all(self, function, count):
        """Call from several threads at once, as a threaded web worker would."""
        share = range(count // self.threads)
        runs = [self.pool.submit(lambda: [self.execute(function.__name__) for _ in share]) for _ in range(self.threads)]
        for run in runs:
            run.result()

    def close(self):
        self.pool.shutdown()
        super().close()


CELERY = "Celery, Redis"
DIRTY = "gunicorn dirty workers"
ADAPTERS: dict[str, type[Peer]] = {**PEERS, CELERY: CeleryRedis, DIRTY: Dirty}
