"""Write a report every second, and show that each second is run once, whatever is killed.

    python examples/schedules.py [FOLDER] [--seconds 10]

FOLDER (default: ./schedules) gets the database of the pool and the file reports.txt. No package is needed beside procjobs.

While it runs, kill the supervisor of the pool, whose pid it prints:

    kill -9 PID

The pool is back a moment later, with what it had: its schedules are in the database. The runs that it has missed meanwhile
are made up for (`catch_up="all"`), and none is made twice, because the row that says "this second was run" is written in the
transaction that makes the job. Stop the program with Ctrl-C, wait some seconds, and start it again: it makes up for those
too. In another shell, `procjobs schedules`, `procjobs pause schedules-example report` and
`procjobs run-now schedules-example report` show and control the same schedule (pip install 'procjobs[cli]').
"""

import argparse
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import procjobs

POOL = "schedules-example"


def write_report(path: str) -> str:
    """Run in a worker: say which second this report is for. The clock may be later than that."""
    job = procjobs.current_job()
    line = f"report for {job.scheduled_for.astimezone():%H:%M:%S}"
    with open(path, "a") as file:
        file.write(f"{line}\n")
    return line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("schedules"), help="for the database and the reports")
    parser.add_argument("--seconds", type=float, default=10, help="how long it runs")
    arguments = parser.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    reports = arguments.folder.resolve() / "reports.txt"

    schedule = procjobs.ScheduledCall("report", write_report, args=[str(reports)], every=1, catch_up="all", overlap="allow")
    store = f"sqlite:///{arguments.folder.resolve()}/jobs.db"
    with procjobs.Pool(POOL, store=store, workers=2, schedules=[schedule]) as pool:
        print(f"supervisor {pool.stats().supervisor_pid}, reports in {reports}", flush=True)
        try:
            follow(pool, time.time() + arguments.seconds)
            is_right = sum_up(pool)
        finally:
            pool.stop()  # a pool with a name goes on without this program, as long as it has something to do
    return 0 if is_right else 1


def follow(pool: procjobs.Pool, until: float) -> None:
    """Print each run as it ends."""
    pid, shown = pool.stats().supervisor_pid, None
    while time.time() < until:
        time.sleep(0.1)
        try:
            found = pool.schedules()
        except procjobs.SupervisorLost:  # killed in this very moment; the next call finds its successor
            continue
        if pool.stats().supervisor_pid != pid:
            pid = pool.stats().supervisor_pid
            print(f"the supervisor was killed; supervisor {pid} goes on", flush=True)
        for info in found:  # none yet, where the database has not noted it yet
            if info.last_at not in {shown, None} and info.last_state == "succeeded":
                shown = info.last_at
                moment = datetime.fromtimestamp(shown).astimezone()
                print(f"{moment:%H:%M:%S} {info.last_state}, {info.missed} missed", flush=True)


def sum_up(pool: procjobs.Pool) -> bool:
    """Compare the jobs in the database with the seconds that have passed; return whether each second has one.

    Of a time in which the pool was stopped, the newest 100 seconds are made up for; the others are counted as missed.
    """
    records = [record for record in pool.history(limit=100_000) if record.schedule == "report"]
    runs = Counter(round(record.scheduled_for or 0) for record in records)
    if not runs:
        print("nothing has run yet: give it more seconds")
        return False
    missing = [second for second in range(min(runs), max(runs) + 1) if second not in runs]
    twice = [second for second, count in runs.items() if count > 1]
    seconds = max(runs) - min(runs) + 1
    print(f"{seconds} seconds, {len(records)} jobs, {len(missing)} missing, {len(twice)} twice", flush=True)
    (info,) = pool.schedules()
    return len(missing) <= info.missed and not twice


if __name__ == "__main__":
    raise SystemExit(main())
