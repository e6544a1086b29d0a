"""A task hopper: functions of an application's `tasks.py` by name, a row of a database for each call, one runner.

    hopper = TaskHopper("sqlite:////srv/app/app.db")            # or an Engine, a Session, a pydal DAL
    hopper.add_task("resize", args=["cat.jpg"], kwargs={"width": 256})

    $ procjobs tasks run -Q tasks.py --db sqlite:////srv/app/app.db

1. A task is a row of the table `task_status`, in the database of the application. Where the application gives its own
   connection, session or DAL, the row is a part of that transaction.
2. One runner at a time works the queue of a database, one task at a time, in the order of due time and id. It holds a lock
   that the kernel or the database server releases when it ends, however it ends.
3. A task runs in a worker of the runner's private pool. Worker and runner end together, also after a `kill -9`; the next
   runner waits until the processes of the earlier one are gone, and runs the task that was cut off again.
4. Each task has a fresh process, which reads `tasks.py` as it is then.

Start reading in `hopper` for the application's side, and in `runner` for the other one; `queue` has what the runner asks the
database. docs/coming-from-a-task-hopper.md is the page for users.
"""

from procjobs.compat.taskhopper.errors import ArgumentsNotJSON, DatabaseAway, RunnerRefused, UnknownTask
from procjobs.compat.taskhopper.hopper import TaskHopper
from procjobs.compat.taskhopper.table import Task

__all__ = ["ArgumentsNotJSON", "DatabaseAway", "RunnerRefused", "Task", "TaskHopper", "UnknownTask"]
