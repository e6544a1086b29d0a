"""web2py's Scheduler on pools: `from procjobs.compat.web2py import Scheduler`, or `install()` its name.

State is in the four tables of the application's pydal database; see docs/coming-from-web2py.md. Start reading in `scheduler`
for programs that queue tasks, in `loop` for workers. `register` knows which workers live and who is the ticker, `dealing`
which worker gets which task, `taking` and `rules` what becomes of a task, `runner` and `in_worker` run it.
"""

from typing import Any

from procjobs.compat.web2py.alias import install
from procjobs.compat.web2py.context import find_current
from procjobs.compat.web2py.cron import IS_CRONLINE, CronParser
from procjobs.compat.web2py.graph import JobGraph
from procjobs.compat.web2py.names import (
    ACTIVE,
    ASSIGNED,
    CLEAROUT,
    COMPLETED,
    DISABLED,
    EXPIRED,
    FAILED,
    HEARTBEAT,
    KILL,
    PICK,
    QUEUED,
    RUN_STATUS,
    RUNNING,
    STOP_TASK,
    STOPPED,
    TASK_STATUS,
    TERMINATE,
    TIMEOUT,
    WORKER_STATUS,
)
from procjobs.compat.web2py.scheduler import Scheduler
from procjobs.compat.web2py.tables import TYPE

__all__ = [
    "ACTIVE",
    "ASSIGNED",
    "CLEAROUT",
    "COMPLETED",
    "DISABLED",
    "EXPIRED",
    "FAILED",
    "HEARTBEAT",
    "IS_CRONLINE",
    "KILL",
    "PICK",
    "QUEUED",
    "RUNNING",
    "RUN_STATUS",
    "STOPPED",
    "STOP_TASK",
    "TASK_STATUS",
    "TERMINATE",
    "TIMEOUT",
    "TYPE",
    "WORKER_STATUS",
    "CronParser",
    "JobGraph",
    "Scheduler",
    "current",
    "install",
]


def __getattr__(name: str) -> Any:
    """Return `current`: that of gluon, if this process has imported it by now."""
    if name == "current":
        return find_current()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
