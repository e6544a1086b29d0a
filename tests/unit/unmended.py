# ruff: noqa: E501
"""What `test_floors` finds and is still to be mended. These lists only shrink; when they are empty, this file goes."""

CIRCLES = [
    ["client.connection.connection", "client.connection.unacknowledged", "client.controls", "client.job", "client.map", "client.monitor", "client.outbox", "client.pool", "client.shutdown", "client.submitter"],  # noqa: E501
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
PRIVATE_TO_FACES = set()
IMPURE = set()
