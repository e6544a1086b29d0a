"""Kill processes at random and count the losses: `python benchmarks/chaos.py --minutes 1 --seed 7 [--json FILE]`.

Client programs submit jobs of all kinds to one named pool (chaos_client.py, chaos_jobs.py), while this process kills and
stops workers, templates, supervisors, clients and jobs' children, overfills the queue, resizes and pauses. In the end
every handle must have exactly one answer, the right one, no job may have run too often, and no process, file or descriptor
may be left (chaos_ledger.py).

The times of the kills follow from the seed alone; the victims also depend on the host.
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
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
from chaos_client import ROLES, Submissions, count_descriptors
from chaos_jobs import MARK, MAX_QUEUED, append, open_pool, plan_tiny, probe
from chaos_ledger import MUST_BE_ZERO, Kill, Ledger, summarise_recoveries
from chaos_stage import Stage, is_marked

import procjobs
from procjobs.host import process

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="by default a new seed, which is printed")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--patience", type=float, default=60.0, help="seconds for all answers after the last kill")
    parser.add_argument("--json", metavar="FILE", help="write the ledger")
    parser.add_argument("--keep", metavar="DIR", help="copy the records of the run there")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6)
    faulthandler.dump_traceback_later(options.minutes * 60 + 3 * options.patience + 60, exit=True)  # a run always ends
    process.set_title("chaos")
    with Stage() as stage:
        result = run(options, stage)
        if options.keep:
            shutil.copytree(stage.records, options.keep, dirs_exist_ok=True)
    faulthandler.cancel_dump_traceback_later()
    show(result)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)
    return 1 if any(result["faults"].values()) else 0


def run(options, stage):
    """Run the clients and the killer for the given time; return the ledger."""
    name, until = f"chaos-{os.getpid()}", time.monotonic() + options.minutes * 60
    pool = open_pool(name, options.workers)
    pool.submit(probe).result(30)
    stage.log.read()
    before = count_descriptors()
    clients = Clients(options, name, until)
    killer = Killer(options, pool, clients, stage)
    while time.monotonic() < until:
        clients.replace_ended()
        killer.act()
        stage.log.read()
        time.sleep(0.005)
    killer.leave()
    clients.wait(until + options.patience + 15.0)
    killer.submissions.wait_all(until + options.patience)
    append("events", "left", killer.submissions.label, before, count_descriptors())
    ledger = Ledger(stage.records, killer.kills)
    left = {
        "children of dead jobs": wait_for_nothing(lambda: ledger.children_of_dead_jobs(stage.find_children())),
        "processes left": stop(pool) + [describe_process(pid) for pid in stage.marked_processes()],
        "files left": stage.left_files(),
        "clients broken": clients.broken,
        "floods without QueueFull": killer.floods_without_error,
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
    """Return the result of `find` as soon as it is empty, or when the grace period is over."""
    deadline = time.monotonic() + 6.0
    while (found := find()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def stop(pool):
    """Stop the pool, and return errors."""
    try:
        pool.stop()
    except procjobs.ProcjobsError as error:
        return [f"pool.stop() raised {error!r}"]
    return []


def describe_process(pid):
    with contextlib.suppress(psutil.Error):
        found = psutil.Process(pid)
        return f"{pid} {found.name()} of {found.ppid()}: {found.cmdline()[:4]}"
    return f"{pid}, which has ended since"


# Clients --------------------------------------------------------------------------------------------------------


class Clients:
    """The client programs. When a client leaves or is killed, another one takes over its role."""

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

    def replace_ended(self):
        """Note the clients that have ended, and start their successors."""
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
            self.replace_ended()
            time.sleep(0.01)
        for client in self.running:
            client.kill()
            client.wait()
            self.broken.append(f"{client.label} did not end")


# The killer -----------------------------------------------------------------------------------------------------


class Killer:
    """Does each of its actions at random times; `ACTIONS` has the mean seconds between two."""

    def __init__(self, options, pool, clients, stage):
        self._options, self._pool, self._clients, self._mark = options, pool, clients, stage.records
        self._timers = []
        self._probes = ThreadPoolExecutor(16)
        self.submissions = Submissions(pool, "killer-0")
        self.kills = []
        self.floods_without_error = []
        self.unrecovered = []
        self.recoveries = {"supervisor": [], "template": [], "worker": []}
        self._dice = {action: random.Random(f"{options.seed}/{action}") for action in self.ACTIONS}
        self._next = {action: time.monotonic() + self._pause(action) for action in self.ACTIONS}

    def _pause(self, action):
        return self._dice[action].expovariate(1 / self.ACTIONS[action])

    def act(self):
        """Do the actions that are due."""
        for action, at in self._next.items():
            if at <= time.monotonic():
                getattr(self, action)(self._dice[action])
                self._next[action] = time.monotonic() + self._pause(action)
        self.submissions.take_answers(0.001)

    def leave(self):
        """Wait until every stopped process continues, and for the probes."""
        for timer in self._timers:
            timer.join()
        self._probes.shutdown()

    # Possible victims

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
        """Send a signal to one of the processes if it belongs to this run; return its pidfd, or None."""
        if not pids:
            return None
        pid = rng.choice(pids)
        with contextlib.suppress(OSError, psutil.Error):
            pidfd = os.pidfd_open(pid)
            if is_marked(psutil.Process(pid), self._mark):
                self.kills.append(Kill(kind, pid, time.monotonic()))  # noted before it can have an effect
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
        """Submit a small job right after a kill, and note the time until it succeeds."""
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

    # Actions

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
        minimum = rng.randint(1, self._options.workers)
        with contextlib.suppress(procjobs.SupervisorError):
            self._pool.resize((minimum, minimum + rng.randint(0, 3)))

    def pause(self, rng):
        with contextlib.suppress(procjobs.SupervisorError):
            self._pool.pause()
            time.sleep(rng.uniform(0.05, 0.5))
            self._pool.resume()

    def flood(self, rng):
        """Submit more jobs than the pool accepts while it is paused."""
        supervisor = self._supervisors()
        taken = 0
        with contextlib.suppress(procjobs.SupervisorError):
            self._pool.pause()
            while taken <= MAX_QUEUED and self.submissions.submit(plan_tiny(rng)):
                taken += 1
            self._pool.resume()
        if taken > MAX_QUEUED and supervisor == self._supervisors():
            self.floods_without_error.append(f"{taken} jobs were accepted at once, and max_queued is {MAX_QUEUED}")

    ACTIONS = {
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
        for section, label, value in rows:
            if section:
                table.add_section()
            style = "bold red" if label in MUST_BE_ZERO and value != "0" else ""
            table.add_row(section, label, value, style=style)
        Console(width=None if sys.stdout.isatty() else 100).print(table)
    for label, cases in result["faults"].items():
        if cases:
            print(f"\n{label}, seed {result['seed']}:", *cases[:20], *(["..."] if len(cases) > 20 else []), sep="\n  ")


def as_rows(result):
    """Yield (section, label, value); the section is empty in all rows of a section except the first."""
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
        "must be 0": {label: len(cases) for label, cases in result["faults"].items()},
    }
    for section, values in sections.items():
        for number, (label, value) in enumerate(values.items()):
            yield "" if number else section, label, str(value)


if __name__ == "__main__":
    sys.exit(main())
