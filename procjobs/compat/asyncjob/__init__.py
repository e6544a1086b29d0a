"""tgext.asyncjob's interface on a pool: `import procjobs.compat.asyncjob as asyncjob`, or `install()` its name.

Jobs run in the processes of the host's pool "asyncjob", which all web workers share; see docs/coming-from-tgext-asyncjob.md.
Start reading in `starting`. `current` has the handle of this process, `perform` hands jobs over, `application`
knows TurboGears. The names below may be imported, and the modules that `alias` lists.
"""

from procjobs.compat.asyncjob.alias import install
from procjobs.compat.asyncjob.current import AsyncWorker
from procjobs.compat.asyncjob.perform import asyncjob_perform
from procjobs.compat.asyncjob.progress import asyncjob_get_progress, asyncjob_running_uid, asyncjob_set_progress
from procjobs.compat.asyncjob.queries import asyncjob_timed_query
from procjobs.compat.asyncjob.starting import configure, plugme, start_async_worker

__all__ = [
    "AsyncWorker",
    "asyncjob_get_progress",
    "asyncjob_perform",
    "asyncjob_running_uid",
    "asyncjob_set_progress",
    "asyncjob_timed_query",
    "configure",
    "install",
    "plugme",
    "start_async_worker",
]
