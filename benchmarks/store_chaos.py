"""Kill a pool with a store at random and count the losses: `python benchmarks/store_chaos.py --rounds 200 [--store URL]`.

In each round this process and a client submit jobs, and SIGKILL hits the supervisor, its recorder, a worker, the template,
the client, or all of them at a random moment. Every run of a job writes a line into a file before its work, and another one
after it. In the end no acknowledged job may be lost, and no job may have run to its end twice. No job may have run more
often than once, plus once for each run that the store has counted as cut off.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter

import psutil
from chaos_stage import PoolLog
from sqlalchemy import create_engine, text

import procjobs
from procjobs.host import rundir

HERE = os.path.dirname(os.path.abspath(__file__))
TARGETS = ("supervisor", "recorder", "worker", "template", "client", "all", "all")
ANSWER_TIMEOUT = 60.0


def note(path, *words):
    """Append a line with one system call, so that it is written completely or not at all."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    os.close(fd)


def work(path, seconds):
    """Note the begin, sleep, and note the end. This is the job of all submissions."""
    job = procjobs.current_job()
    note(path, "began", job.id, job.attempt)
    time.sleep(seconds)
    note(path, "ended", job.id, job.attempt)
    return job.id


def submit_until_killed(name, store, directory, seed):
    """Submit jobs, and note the acknowledged ones, until this process is killed."""
    chance = random.Random(seed)
    pool = open_pool(name, store)
    while True:
        with contextlib.suppress(procjobs.ProcjobsError):
            job = pool.submit(work, f"{directory}/runs", chance.random() * 0.004)
            job.wait_accepted()
            note(f"{directory}/acknowledged", job.id)


def open_pool(name, store):
    return procjobs.Pool(name, workers=2, store=store, preload=["store_chaos"], linger=60.0)


def find_targets(pool, client):
    """Return {target: processes}."""
    supervisor = psutil.Process(pool.stats().supervisor_pid)
    children = supervisor.children()
    recorder = [child for child in children if child.name() == "procjobs-record"]
    workers = [child for child in children if child.name().startswith("procjobs-") and child not in recorder]
    others = [child for child in children if child not in recorder + workers]
    everybody = [supervisor, *children, client]
    one_by_one = {"supervisor": [supervisor], "recorder": recorder, "worker": workers[:1], "template": others}
    return {**one_by_one, "client": [client], "all": everybody}


def kill(target, pool, client):
    """Kill a target. If it has several processes, all are stopped first, so that none sees another one die."""
    with contextlib.suppress(psutil.Error):
        victims = find_targets(pool, client)[target]
        for victim in victims if len(victims) > 1 else []:
            with contextlib.suppress(psutil.Error):
                victim.suspend()
        for victim in victims:
            with contextlib.suppress(psutil.Error):
                victim.kill()


def run(options, store, directory):
    """Run the rounds; return the counts."""
    chance, name = random.Random(options.seed), f"store-chaos-{os.getpid()}"
    log = PoolLog(rundir.RunDir(rundir.find_base(), name).log)
    pool, client, kills, unanswered, wrong = open_pool(name, store), None, Counter(), [], []
    for number in range(options.rounds):
        if client is None or client.poll() is not None:
            arguments = ["--client", name, store, directory, str(chance.random())]
            client = subprocess.Popen([sys.executable, os.path.abspath(__file__), *arguments])
        handles = [pool.submit(work, f"{directory}/runs", chance.random() * 0.004) for _ in range(chance.randrange(40))]
        time.sleep(chance.random() * 0.08)
        target = chance.choice(TARGETS)
        log.read()
        kill(target, pool, psutil.Process(client.pid))
        kills[target] += 1
        for job in handles:
            try:
                wrong += [] if job.result(ANSWER_TIMEOUT) == job.id else [job.id]
                note(f"{directory}/acknowledged", job.id)
            except procjobs.WorkerCrashed:
                note(f"{directory}/acknowledged", job.id)
            except (procjobs.ProcjobsError, TimeoutError) as error:
                unanswered.append(f"round {number} ({target}): {error!r}")
    client.kill()
    client.wait()
    wait_for_rest(pool, store)
    log.read()
    pool.stop()
    seen = {"kills": dict(kills), "unanswered": unanswered, "wrong results": wrong, "complaints": log.complaints}
    return {**seen, **count(store, directory)}


def wait_for_rest(pool, store):
    deadline = time.monotonic() + ANSWER_TIMEOUT
    unfinished = "SELECT count(*) FROM procjobs_jobs WHERE finished_at IS NULL"
    while ask(store, unfinished)[0][0] and time.monotonic() < deadline:
        pool.stats()
        time.sleep(0.05)


def ask(store, query):
    with create_engine(store).connect() as connection:
        return connection.execute(text(query)).all()


def count(store, directory):
    """Compare acknowledged jobs with the runs of jobs, and with the store."""
    with open(f"{directory}/acknowledged") as file:
        acknowledged = set(file.read().split())
    with open(f"{directory}/runs") as file:
        runs = [line.split() for line in file]
    began = Counter(job_id for event, job_id, _ in runs if event == "began")
    ended = Counter(job_id for event, job_id, _ in runs if event == "ended")
    rows = {row.id: row for row in ask(store, "SELECT id, state, reason, attempt, cut_off FROM procjobs_jobs")}
    crashed = {job_id for job_id, row in rows.items() if row.reason == "crashed"}
    return {
        "jobs": len(rows),
        "acknowledged": len(acknowledged),
        "runs": began.total(),
        "cut off": sum(row.cut_off for row in rows.values()),
        "lost": sorted(a for a in acknowledged if not ended[a] and a not in crashed),
        "unknown to the store": sorted(job_id for job_id in began if job_id not in rows),
        "unfinished": sorted(job_id for job_id, row in rows.items() if row.state not in {"succeeded", "failed"}),
        "run too often": sorted(job_id for job_id, n in began.items() if job_id in rows and n > 1 + rows[job_id].cut_off),
        "ended twice without being cut off": sorted(j for j, n in ended.items() if j in rows and n > 1 + rows[j].cut_off),
        "quarantined": sorted(job_id for job_id, row in rows.items() if row.reason == "quarantined"),
    }


def main():
    if sys.argv[1:2] == ["--client"]:
        submit_until_killed(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--store", help="a database's URL; by default an SQLite file that is removed at the end")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="procjobs-store-chaos-")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        result = {"seed": options.seed, **run(options, options.store or f"sqlite:///{directory}/jobs.db", directory)}
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(json.dumps(result, indent=1))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)
    return 1 if any(isinstance(value, list) and value for value in result.values()) else 0


if __name__ == "__main__":
    if sys.argv[1:2] != ["--client"]:
        sys.path.insert(0, HERE)
    import store_chaos  # under its own name, so that workers can import the jobs

    sys.exit(store_chaos.main())
