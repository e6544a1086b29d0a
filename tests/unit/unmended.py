# ruff: noqa: E501
"""What `test_floors` finds and is still to be mended. These lists only shrink; when they are empty, this file goes."""

CIRCLES = [
    ["client.connection.connection", "client.connection.unacknowledged", "client.controls", "client.job", "client.map", "client.monitor", "client.outbox", "client.pool", "client.shutdown", "client.submitter"],  # noqa: E501
    ["compat.asyncjob", "compat.asyncjob.alias", "compat.asyncjob.as_tgext", "compat.asyncjob.perform", "compat.asyncjob.progress", "compat.asyncjob.starting"],  # noqa: E501
]
UPWARD = {
    ("client.connection.connection", "client.job"),
    ("client.connection.unacknowledged", "client.job"),
    ("settings.plan", "client.launcher"),
    ("settings.plan", "sql.configuration"),
}
WIRING = {
    "client.controls: Controls.name",
    "client.monitor: Monitor._closed",
    "client.monitor: Monitor._directory",
    "client.monitor: Monitor._lock",
    "client.monitor: Monitor._table",
    "client.running_pool: AttachedPool.name",
    "client.shutdown: Ending._child_pid",
    "client.shutdown: Ending._closed",
    "client.shutdown: Ending._connection",
    "client.shutdown: Ending._directory",
    "client.shutdown: Ending._finalizer",
    "client.shutdown: Ending._job_defaults",
    "client.shutdown: Ending._lock",
    "client.shutdown: Ending._owner_pid",
    "client.shutdown: Ending._retired",
    "client.shutdown: Ending._table",
    "client.submitter: Submitter._changes",
}
PRIVATE_TO_FACES = {
    ("compat.asyncjob.application", "sql.sources.make_engine"),
    ("compat.asyncjob.perform", "client.connection.kinds.function_name"),
    ("compat.asyncjob.perform", "client.orm_arguments"),
    ("compat.asyncjob.perform", "host.payload"),
    ("compat.asyncjob.perform", "worker.context.current_job"),
    ("compat.asyncjob.progress", "worker.context.JobContext"),
    ("compat.asyncjob.progress", "worker.context.current_job"),
    ("compat.asyncjob.progress", "worker.context.progress"),
    ("compat.asyncjob.queries", "sql.waiting.look_for"),
    ("compat.asyncjob.starting", "client.pool.Pool"),
    ("compat.asyncjob.starting", "host.observe"),
}
IMPURE = set()
