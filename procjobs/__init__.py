"""A pool of worker processes per host, for CPU-heavy work of web applications.

    web worker 1..N, scripts            one per pool                     one per pool
    +---------+   Unix socket    +----------------------+  fork request  +------------+
    |  Pool   | ---------------> |      Supervisor      | -------------> |  Template  |
    | (client)| <--------------- | queue, timers, slots |                | (preloaded)|
    +---------+  acks, results   +----------------------+                +------------+
         |                          | pipes, a pair|  ^                           | fork
         | reads                    | per worker   v  | results            +------v-----+
         |                          |       (jobs)    +--------------------|  Worker    |
         |    +-----------------+   | writes state                         +------------+
         +--> |  ProgressTable  | <-+                                             |
              | (shared memory) | <----------------------- writes progress -------+
              +-----------------+
                                     events, in batches   +------------+
    in pools with a store: Supervisor ------------------> |  Recorder  | ---> SQLite or PostgreSQL
                                      <------------------ +------------+
                                     what is committed

- Pool (procjobs.client) runs in the user's process. The calling thread pickles a job and sends it with one system call;
  one receiver thread takes the answers.
- Supervisor (procjobs.supervisor) is the parent of all workers. It has one thread and one loop, never runs users' code
  and never unpickles. Its rules are in Dispatcher (procjobs.dispatch), which does no I/O and reads no clock.
- Template (procjobs.template) imports the preloaded modules once, and forks the workers.
- Recorder (procjobs.store) writes the jobs of a pool with a store into its database.
- Worker (procjobs.worker) runs one job at a time, and is replaced when it dies. A process of its own, forked when a job
  has failed, calls the hooks of the pool.
- ProgressTable (procjobs.shared.table) is one mapped file. Any process reads the state of jobs, workers and the pool from
  it, also while the supervisor is busy, stopped or dead.

Folders import from folders below them only, and no two modules import each other (tests/unit/test_floors.py):

    cli   web   compat   tuning                     faces: they stand on the public names below
    client                                          pools and handles of jobs; client/connection: the socket
    supervisor                                      workers/, clients/ and durable/ around one registry
    dispatch                                        the scheduling core, pure
    sql   worker   template   store                 what runs in other processes
    settings                                        settings by name
    schedules                                       when schedules run, pure
    host                                            the operating system
    shared   errors   clock                         what all processes agree on

Where is ... decided or done?

    a timeout                                       dispatch/watchdog.py (the limits of a job: dispatch/limits.py)
    a job interrupted, so that it cleans up         worker/interruption.py
    a job that waits for another job of its pool    dispatch/nesting.py
    a retry, and the pause before it                dispatch/completion.py
    the row of a job written when it ends           supervisor/registry.py
    a durable answer kept until its commit          supervisor/durable/uncommitted.py
    a process killed that a job has left behind     supervisor/workers/reaper.py
    when a schedule is due                          schedules/timetable.py (local times: schedules/cron.py)
    the job of a schedule made                      supervisor/schedules/service.py
    a schedule read from the settings file          settings/schedule_tables.py
    a hook called for a job that failed             supervisor/pending_hooks.py
    an id looked for that has no row                client/finding.py, supervisor/clients/deferred.py
    many jobs read at once, for a page              client/glancing.py
    a change of a job sent to a browser             web/watching.py
    who may see what in a browser                   web/access/

>>> import procjobs
>>> with procjobs.Pool(workers=2) as pool:
...     job = pool.submit(pow, 2, 10)
...     job.result()
1024
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from procjobs.errors import (
    Attempt,
    CodeDiffers,
    CommitFailed,
    ConfigurationError,
    JobCancelled,
    JobError,
    JobExpired,
    JobQuarantined,
    JobStalled,
    JobTimeout,
    MemoryLimitExceeded,
    OutsideJob,
    PayloadError,
    PoolClosed,
    PoolDegraded,
    PoolNotRunning,
    ProcjobsError,
    QueueFull,
    ReloadFailed,
    RemoteTraceback,
    RetryRefused,
    SettingsDiffer,
    StoreUnavailable,
    SubmitTimeout,
    SupervisorError,
    SupervisorLost,
    SupervisorRefused,
    UnknownJob,
    UnknownSchedule,
    UnsupportedPlatform,
    WaitRefused,
    WorkerCrashed,
)
from procjobs.shared.fact_records import PoolUsage, ProcessInfo, SettingInfo, TrendPoint
from procjobs.shared.queues import Queue
from procjobs.shared.records import (
    Histogram,
    JobRecord,
    JobStatus,
    KindInfo,
    PoolStats,
    Progress,
    QueueInfo,
    Run,
    WorkerInfo,
)
from procjobs.shared.schedule_records import ScheduleInfo
from procjobs.shared.user_secret import user_secret
from procjobs.version import __version__
from procjobs.worker.context import JobContext, checkpoint, current_job, progress, track
from procjobs.worker.scheduled_time import SCHEDULED_FOR
from procjobs.worker.wrappers import add_wrapper

if TYPE_CHECKING:
    from procjobs import sql as sql
    from procjobs.client.call import Call
    from procjobs.client.job import Job
    from procjobs.client.pool import Pool
    from procjobs.client.pull_queue import PulledItem, PullQueue
    from procjobs.client.submitter import job
    from procjobs.schedules.declared import ScheduledCall, schedule

__all__ = [
    "SCHEDULED_FOR",
    "Attempt",
    "Call",
    "CodeDiffers",
    "CommitFailed",
    "ConfigurationError",
    "Histogram",
    "Job",
    "JobCancelled",
    "JobContext",
    "JobError",
    "JobExpired",
    "JobQuarantined",
    "JobRecord",
    "JobStalled",
    "JobStatus",
    "JobTimeout",
    "KindInfo",
    "MemoryLimitExceeded",
    "OutsideJob",
    "PayloadError",
    "Pool",
    "PoolClosed",
    "PoolDegraded",
    "PoolNotRunning",
    "PoolStats",
    "PoolUsage",
    "ProcessInfo",
    "ProcjobsError",
    "Progress",
    "PullQueue",
    "PulledItem",
    "Queue",
    "QueueFull",
    "QueueInfo",
    "ReloadFailed",
    "RemoteTraceback",
    "RetryRefused",
    "Run",
    "ScheduleInfo",
    "ScheduledCall",
    "SettingInfo",
    "SettingsDiffer",
    "StoreUnavailable",
    "SubmitTimeout",
    "SupervisorError",
    "SupervisorLost",
    "SupervisorRefused",
    "TrendPoint",
    "UnknownJob",
    "UnknownSchedule",
    "UnsupportedPlatform",
    "WaitRefused",
    "WorkerCrashed",
    "WorkerInfo",
    "__version__",
    "add_wrapper",
    "checkpoint",
    "current_job",
    "job",
    "progress",
    "schedule",
    "track",
    "user_secret",
]

_CLIENT = {
    "Call": "procjobs.client.call",
    "Job": "procjobs.client.job",
    "Pool": "procjobs.client.pool",
    "PullQueue": "procjobs.client.pull_queue",
    "PulledItem": "procjobs.client.pull_queue",
    "ScheduledCall": "procjobs.schedules.declared",
    "job": "procjobs.client.submitter",
    "schedule": "procjobs.schedules.declared",
}
_FACES = frozenset({"ffmpeg", "sql", "web"})


def __getattr__(name: str) -> Any:
    """Load the client on its first use. Supervisors and templates do not need it, and start 30 ms sooner without it."""
    if name in _FACES:
        return import_module(f"procjobs.{name}")
    if name not in _CLIENT:
        raise AttributeError(f"module 'procjobs' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_CLIENT[name]), name)
    return value
