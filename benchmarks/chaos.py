"""Kill everything at random and count what is lost: `python benchmarks/chaos.py --minutes 1 --seed 7 [--json FILE]`.

Client programs submit jobs of all kinds to one named pool (chaos_client.py, chaos_jobs.py), while this process kills and
stops workers, templates, supervisors, clients and jobs' children, overfills the queue, resizes and pauses. In the end
every handle must have been answered, rightly and once, no job run too often, and nothing be left (chaos_ledger.py).

When the killer strikes follows from the seed alone; whom it meets depends on the host as well.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
from chaos_client import ROLES, Desk, count_descriptors
from chaos_jobs import MARK, MAX_QUEUED, TOKEN, append, open_pool, plan_tiny, probe
from chaos_ledger import MUST_BE_ZERO, Kill, Ledger, summarise_recoveries

import procjobs
from procjobs.host import process, rundir

HERE = os.path.dirname(os.path.abspath(__file__))
COMPLAINTS = "a bug in procjobs", "Traceback (most recent call last)", "sent nonsense", "was not given"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="by default a new one, which is printed")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--patience", type=float, default=60.0, help="seconds for all answers when the killer has gone")
    parser.add_argument("--json", metavar="FILE", help="write the ledger")
    parser.add_argument("--keep", metavar="DIR", help="copy the records of the run there")
    parser.add_argument("--guard", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.guard:
        guard(*options.guard)
        return 0
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6)
    faulthandler.dump_traceback_later(options.minutes * 60 + 3 * options.patience + 60, exit=True)  # a run always ends
    process.set_title("chaos")
    with Stage() as stage:
        result = play(options, stage)
        if options.keep:
            shutil.copytree(stage.records, options.keep, dirs_exist_ok=True)
    faulthandler.cancel_dump_traceback_later()
    show(result)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)
    return 1 if any(result["faults"].values()) else 0


def play(options, stage):
    """Let clients and killer loose for the time given; return what came of it."""
    name, until = f"chaos-{os.getpid()}", time.monotonic() + options.minutes * 60
    pool = open_pool(name, options.workers)
    pool.submit(probe).result(30)
    stage.log.read()
    before = count_descriptors()
    clients = Clients(options, name, until)
    killer = Killer(options, pool, clients, stage)
    while time.monotonic() < until:
        clients.tend()
        killer.act()
        stage.log.read()
        time.sleep(0.005)
    killer.leave()
    clients.wait(until + options.patience + 15.0)
    killer.desk.wait_all(until + options.patience)
    append("events", "left", killer.desk.label, before, count_descriptors())
    ledger = Ledger(stage.records, killer.kills)
    left = {
        "children of dead jobs": wait_for_nothing(lambda: ledger.children_of_dead_jobs(stage.find_children())),
        "processes left": stop(pool) + [describe_process(pid) for pid in stage.marked_processes()],
        "files left": stage.left_files(),
        "clients broken": clients.broken,
        "floods without QueueFull": killer.dry_floods,
        "never recovered": killer.unrecovered,
        "complaints in the log": stage.log.read(),
    }
    faults = {**ledger.faults(), **left}
    return {
        "seed": options.seed,
        "minutes": options.minutes,
        **ledger.counts(),
        "faults": {name: faults[name] for name in MUST_BE_ZERO},
        "recoveries": summarise_recoveries(killer.recoveries),
    }


def wait_for_nothing(find):
    """Return what is found when the grace period is over, at once if that is nothing."""
    deadline = time.monotonic() + 6.0
    while (found := find()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def stop(pool):
    """Stop the pool, and return what went wrong."""
    try:
        pool.stop()
    except procjobs.ProcjobsError as error:
        return [f"pool.stop() raised {error!r}"]
    return []


def describe_process(pid):
    with contextlib.suppress(psutil.Error):
        found = psutil.Process(pid)
        return f"{pid} {found.name()} of {found.ppid()}: {found.cmdline()[:4]}"
    return f"{pid}, gone since"


class Stage:
    """The directories of a run, and a guard that ends all its processes when this one has ended, however it ended."""

    def __init__(self):
        self.records = tempfile.mkdtemp(prefix="procjobs-chaos-")
        self.runtime = tempfile.mkdtemp(prefix="chaos-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.log = PoolLog(rundir.RunDir(f"{self.runtime}/procjobs", f"chaos-{os.getpid()}").log)

    def __enter__(self):
        command = [sys.executable, os.path.abspath(__file__), "--guard", self.records, self.runtime]
        self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        os.environ[MARK], os.environ["XDG_RUNTIME_DIR"] = self.records, self.runtime
        return self

    def __exit__(self, *_):
        self._guard.stdin.close()
        self._guard.wait()

    def marked_processes(self):
        return find_marked(self.records)

    def find_children(self):
        """Return {pid: token} of what jobs have started."""
        found = {}
        for pid in self.marked_processes():
            with contextlib.suppress(psutil.Error):
                found[pid] = psutil.Process(pid).environ().get(TOKEN)
        return {pid: token for pid, token in found.items() if token}

    def left_files(self):
        return [os.path.join(root, name) for root, below, files in os.walk(self.runtime) for name in below + files]


def find_marked(mark):
    """Return the pids of the processes that carry the mark, zombies not among them."""
    return [found.pid for found in psutil.process_iter() if is_marked(found, mark)]


def is_marked(found, mark):
    with contextlib.suppress(psutil.Error):
        return found.environ().get(MARK) == mark
    return False


def guard(records, runtime):
    """Wait until the process that holds the other end of standard input has gone, and clean up after it."""
    sys.stdin.buffer.read()
    for _ in range(100):
        pids = find_marked(records)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not pids:
            break
        time.sleep(0.02)
    for directory in (records, runtime):
        shutil.rmtree(directory, ignore_errors=True)


class PoolLog:
    """Reads the logs of one supervisor after the other, and collects the lines that tell of a bug."""

    def __init__(self, path):
        self._path = path
        self._file = None
        self.complaints = []

    def read(self):
        """Read on, and return all complaints until now."""
        with contextlib.suppress(FileNotFoundError):
            if self._file is None or os.stat(self._path).st_ino != os.fstat(self._file.fileno()).st_ino:
                following = open(self._path, errors="replace")  # noqa: SIM115 - it stays open to be read on
                self._read_on()
                self._file = following
        self._read_on()
        return self.complaints

    def _read_on(self):
        if self._file is not None:
            text = self._file.read()
            if any(complaint in text for complaint in COMPLAINTS):
                self.complaints.append(text[:4000])


# Clients --------------------------------------------------------------------------------------------------------


class Clients:
    """The client programs. One that leaves or is killed is followed by another in its role."""

    def __init__(self, options, name, until):
        self._options, self._name, self._until = options, name, until
        self._count = 0
        self._killed = set()
        self.broken = []
        self.running = []
        roles = list(ROLES)
        for number in range(options.clients):
            self._start(roles[number % len(roles)])

    def _start(self, role):
        self._count += 1
        label = f"{role}-{self._count}"
        settings = (
            self._name,
            self._options.workers,
            self._options.seed,
            self._until,
            self._options.patience,
            os.getpid(),
        )
        command = [sys.executable, f"{HERE}/chaos_client.py", role, label, *map(str, settings)]
        with open(f"{os.environ[MARK]}/{label}.err", "w") as errors:
            client = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        client.label, client.role = label, role
        self.running.append(client)

    def tend(self):
        """Note who has ended, and start who is to follow."""
        for client in [client for client in self.running if client.poll() is not None]:
            self.running.remove(client)
            if client.returncode != 0 and client.role != "leaves" and client.pid not in self._killed:
                with open(f"{os.environ[MARK]}/{client.label}.err") as errors:
                    self.broken.append(f"{client.label} ended with {client.returncode}: {errors.read()[-2000:]}")
            if time.monotonic() < self._until - 0.5:
                self._start(client.role)

    def expect_death(self, pid):
        self._killed.add(pid)

    def wait(self, deadline):
        while self.running and time.monotonic() < deadline:
            self.tend()
            time.sleep(0.01)
        for client in self.running:
            client.kill()
            client.wait()
            self.broken.append(f"{client.label} did not end")


# The killer -----------------------------------------------------------------------------------------------------


class Killer:
    """Does each of its deeds at random times: the mean seconds between two are in `DEEDS`."""

    def __init__(self, options, pool, clients, stage):
        self._options, self._pool, self._clients, self._mark = options, pool, clients, stage.records
        self._timers = []
        self._probes = ThreadPoolExecutor(16)
        self.desk = Desk(pool, "killer-0")
        self.kills = []
        self.dry_floods = []
        self.unrecovered = []
        self.recoveries = {"supervisor": [], "template": [], "worker": []}
        self._dice = {deed: random.Random(f"{options.seed}/{deed}") for deed in self.DEEDS}
        self._next = {deed: time.monotonic() + self._pause(deed) for deed in self.DEEDS}

    def _pause(self, deed):
        return self._dice[deed].expovariate(1 / self.DEEDS[deed])

    def act(self):
        """Do what is due."""
        for deed, at in self._next.items():
            if at <= time.monotonic():
                getattr(self, deed)(self._dice[deed])
                self._next[deed] = time.monotonic() + self._pause(deed)
        self.desk.take_answers(0.001)

    def leave(self):
        """Wait until everything that is stopped goes on, and for the probes."""
        for timer in self._timers:
            timer.join()
        self._probes.shutdown()

    # Whom it may meet

    def _workers(self):
        return [worker.pid for worker in self._pool.workers() if worker.pid]

    def _supervisors(self):
        return [self._pool.stats().supervisor_pid]

    def _descendants(self, names, *, recursive):
        found = []
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(*self._supervisors()).children(recursive=recursive):
                with contextlib.suppress(psutil.Error):
                    found += [child.pid] if child.name().startswith(names) else []
        return found

    def _templates(self):
        return self._descendants(("procjobs-templ",), recursive=False)

    def _children(self):
        return self._descendants(("sleep", "sh"), recursive=True)

    def _client_pids(self):
        return [client.pid for client in self._clients.running]

    # Signals

    def _signal(self, kind, pids, number, rng):
        """Send a signal to one of the processes if it is of this run; return its pidfd, None if it is not there."""
        if not pids:
            return None
        pid = rng.choice(pids)
        with contextlib.suppress(OSError, psutil.Error):
            pidfd = os.pidfd_open(pid)
            if is_marked(psutil.Process(pid), self._mark):
                self.kills.append(Kill(kind, pid, time.monotonic()))  # before it is felt anywhere
                append("kills", *self.kills[-1])
                signal.pidfd_send_signal(pidfd, number)
                return pidfd
            os.close(pidfd)
        return None

    def _kill(self, kind, pids, rng):
        pidfd = self._signal(kind, pids, signal.SIGKILL, rng)
        if pidfd is not None:
            os.close(pidfd)
            if kind in self.recoveries:
                self._probes.submit(self._time_recovery, self.kills[-1])

    def _stop(self, kind, pids, rng):
        pidfd = self._signal(f"{kind} stopped", pids, signal.SIGSTOP, rng)
        if pidfd is None:
            return

        def go_on():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            os.close(pidfd)

        timer = threading.Timer(rng.uniform(0.05, 1.5), go_on)
        timer.daemon = True
        timer.start()
        self._timers = [timer, *filter(threading.Thread.is_alive, self._timers)]

    def _time_recovery(self, kill):
        """Note how long it takes after a kill until a small job succeeds that is submitted right after it."""
        patience = self._options.patience
        while time.monotonic() < kill.at + patience:
            try:
                self._pool.options(priority=1000).submit(probe).result(patience)
            except (procjobs.ProcjobsError, TimeoutError):
                time.sleep(0.002)
            else:
                self.recoveries[kill.kind].append(time.monotonic() - kill.at)
                return
        self.unrecovered.append(f"no job succeeded for {patience:g} s after the kill of {kill.kind} {kill.pid}")

    # Deeds

    def kill_worker(self, rng):
        self._kill("worker", self._workers(), rng)

    def kill_template(self, rng):
        self._kill("template", self._templates(), rng)

    def kill_supervisor(self, rng):
        self._kill("supervisor", self._supervisors(), rng)

    def kill_child(self, rng):
        self._kill("child", self._children(), rng)

    def kill_client(self, rng):
        pids = self._client_pids()
        pid = rng.choice(pids)
        self._clients.expect_death(pid)
        self._kill("client", [pid], rng)

    def stop_worker(self, rng):
        self._stop("worker", self._workers(), rng)

    def stop_template(self, rng):
        self._stop("template", self._templates(), rng)

    def stop_supervisor(self, rng):
        self._stop("supervisor", self._supervisors(), rng)

    def stop_client(self, rng):
        self._stop("client", self._client_pids(), rng)

    def resize(self, rng):
        least = rng.randint(1, self._options.workers)
        with contextlib.suppress(procjobs.SupervisorError):
            self._pool.resize((least, least + rng.randint(0, 3)))

    def pause(self, rng):
        with contextlib.suppress(procjobs.SupervisorError):
            self._pool.pause()
            time.sleep(rng.uniform(0.05, 0.5))
            self._pool.resume()

    def flood(self, rng):
        """Submit more than the pool takes while it is paused."""
        supervisor = self._supervisors()
        taken = 0
        with contextlib.suppress(procjobs.SupervisorError):
            self._pool.pause()
            while taken <= MAX_QUEUED and self.desk.submit(plan_tiny(rng)):
                taken += 1
            self._pool.resume()
        if taken > MAX_QUEUED and supervisor == self._supervisors():
            self.dry_floods.append(f"{taken} jobs were taken at once, and max_queued is {MAX_QUEUED}")

    DEEDS = {
        "kill_worker": 0.7, "stop_worker": 1.5, "kill_template": 4.0, "stop_template": 5.0, "kill_supervisor": 10.0,
        "stop_supervisor": 6.0, "kill_client": 6.0, "stop_client": 3.0, "kill_child": 0.7, "flood": 7.0, "resize": 3.0,
        "pause": 5.0,
    }  # fmt: skip


# The ledger -----------------------------------------------------------------------------------------------------


def show(result):
    title = f"{result['minutes']:g} minutes of chaos, seed {result['seed']}"
    rows = list(as_rows(result))
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(title, *("  ".join(row) for row in rows), sep="\n")
    else:
        table = Table("", "", "", title=title, title_justify="left", title_style="bold", show_header=False)
        for section, what, value in rows:
            if section:
                table.add_section()
            style = "bold red" if what in MUST_BE_ZERO and value != "0" else ""
            table.add_row(section, what, value, style=style)
        Console(width=None if sys.stdout.isatty() else 100).print(table)
    for what, cases in result["faults"].items():
        if cases:
            print(f"\n{what}, seed {result['seed']}:", *cases[:20], *(["..."] if len(cases) > 20 else []), sep="\n  ")


def as_rows(result):
    """Yield (section where one begins, what, how many)."""
    counted = {name: result[name] for name in ("submitted", "started", "left by their clients")}
    recoveries = {
        f"after a {kind}'s death": f"{times['median']:.3f} s, at most {times['max']:.3f} s"
        for kind, times in result["recoveries"].items()
    }
    sections = {
        "jobs": counted,
        "refused": result["refused"],
        "ended": result["ended"],
        "killed, stopped": result["signals"],
        "recovery, median": recoveries,
        "must be 0": {what: len(cases) for what, cases in result["faults"].items()},
    }
    for section, values in sections.items():
        for number, (what, value) in enumerate(values.items()):
            yield "" if number else section, what, str(value)


if __name__ == "__main__":
    sys.exit(main())
