"""web2py's Scheduler without web2py: tasks in a database, and a worker that runs them.

    pip install 'procjobs[web2py]'
    python examples/web2py_scheduler.py

It queues four tasks, starts a worker for them, and shows how they ended. In an application the worker is a service:

    SHOP_FOLDER=/srv/shop/databases procjobs web2py -K web2py_scheduler --folder examples
"""

import os
import subprocess
import sys
import tempfile
import time

from pydal import DAL

from procjobs.compat.web2py import JobGraph, Scheduler, current


def thumbnail(name, size=256):
    print(f"making a thumbnail of {name}, {size} pixels wide")
    return {"name": name, "size": size}


def report():
    print(f"task {current.W2P_TASK.id} begins")
    for percent in (25, 50, 75, 100):
        time.sleep(0.2)
        print(f"!clear!{percent} %")
    return "report.pdf"


def broken():
    raise ValueError("no such film")


TASKS = {"thumbnail": thumbnail, "report": report, "broken": broken}
FOLDER = os.environ.get("SHOP_FOLDER")
if FOLDER:  # in the worker, and in programs that import this module
    db = DAL("sqlite://shop.sqlite", folder=FOLDER)
    scheduler = Scheduler(db, TASKS, heartbeat=1)


def main():
    with tempfile.TemporaryDirectory() as folder:
        here = DAL("sqlite://shop.sqlite", folder=folder)
        queue = Scheduler(here, TASKS)
        picture = queue.queue_task("thumbnail", ["film.jpg"], {"size": 128})["id"]
        document = queue.queue_task(report, sync_output=1)["id"]
        queue.queue_task(broken, retry_failed=1, period=1)
        hopeless = queue.queue_task("thumbnail", ["late.jpg"], timeout=0)
        print("an option that is wrong:", hopeless["errors"])
        graph = JobGraph(here, "report")
        graph.add_deps(document, picture)  # the report waits for the thumbnail
        print("the order of the job:", graph.validate("report"))  # commits

        place = os.path.dirname(os.path.abspath(__file__))
        command = [sys.executable, "-m", "procjobs", "web2py", "-K", "web2py_scheduler", "--folder", place]
        worker = subprocess.Popen(command, env={**os.environ, "SHOP_FOLDER": folder})
        tasks = here.scheduler_task
        while not here(tasks.status.belongs(("QUEUED", "ASSIGNED", "RUNNING"))).isempty():
            here.commit()
            time.sleep(0.1)
        here.commit()
        for task in here(tasks.id > 0).select():
            row = queue.task_status(task.id, output=True)
            run = row.scheduler_run
            error = (run.traceback or "").strip().splitlines()[-1:]
            print(f"{task.task_name}: {task.status}, result {row.result}, output {run.run_output.strip()!r}", *error)
        queue.terminate()
        here.commit()
        worker.wait()
        here.close()


if __name__ == "__main__":
    main()
