"""Calls of functions as tasks: `from procjobs.compat.taskqueue import deferred` for `google.appengine.ext.deferred`.

    deferred.defer(send_mail, "ann@example.org", _countdown=60)

    app = taskqueue.wrap_wsgi_app(app, use_deferred=True)

The call is pickled, and is the payload of a task for /_ah/queue/deferred, where the application unpickles and makes it. See
docs/coming-from-gae-taskqueue.md. `calls` makes bytes of calls, `deferring` tasks of bytes, `handler` answers requests.
"""

from procjobs.compat.taskqueue.deferred.calls import invoke_member, run, serialize
from procjobs.compat.taskqueue.deferred.deferring import defer, run_from_datastore
from procjobs.compat.taskqueue.deferred.errors import (
    Error,
    PermanentTaskFailure,
    SingularTaskFailure,
    UnloadableCallError,
)
from procjobs.compat.taskqueue.deferred.handler import Handler, application, set_log_level

__all__ = [
    "Error",
    "Handler",
    "PermanentTaskFailure",
    "SingularTaskFailure",
    "UnloadableCallError",
    "application",
    "defer",
    "invoke_member",
    "run",
    "run_from_datastore",
    "serialize",
    "set_log_level",
]
