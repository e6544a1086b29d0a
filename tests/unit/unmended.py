# ruff: noqa: E501
"""What `test_floors` finds and is still to be mended. These lists only shrink; when they are empty, this file goes."""

CIRCLES = [
    ["dispatch.assigner", "dispatch.completion", "dispatch.dispatcher", "dispatch.failures", "dispatch.limiters", "dispatch.model", "dispatch.pending", "dispatch.ports", "dispatch.queue", "dispatch.scaling", "dispatch.slots", "dispatch.watchdog", "supervisor.clients.client_link", "supervisor.clients.requests", "supervisor.clients.unique_keys", "supervisor.durable.durable_jobs", "supervisor.durable.recorder_link", "supervisor.durable.stored_jobs", "supervisor.durable.uncommitted", "supervisor.publisher", "supervisor.results", "supervisor.supervisor", "supervisor.workers.host_load", "supervisor.workers.output", "supervisor.workers.processes", "supervisor.workers.stacks", "supervisor.workers.templates", "supervisor.workers.worker_link"],
    ["client.connection.connection", "client.connection.unacknowledged", "client.controls", "client.job", "client.map", "client.monitor", "client.outbox", "client.pool", "client.shutdown", "client.submitter"],
]
UPWARD = {
    ("client.connection.connection", "client.job"),
    ("client.connection.unacknowledged", "client.job"),
    ("dispatch.model", "supervisor.durable.stored_jobs"),
    ("dispatch.model", "supervisor.workers.output"),
    ("settings.plan", "client.launcher"),
    ("settings.plan", "sql.configuration"),
    ("supervisor.clients.requests", "supervisor.supervisor"),
    ("supervisor.clients.unique_keys", "supervisor.supervisor"),
    ("supervisor.durable.durable_jobs", "supervisor.clients.client_link"),
    ("supervisor.durable.durable_jobs", "supervisor.clients.requests"),
    ("supervisor.durable.durable_jobs", "supervisor.supervisor"),
    ("supervisor.durable.recorder_link", "supervisor.clients.client_link"),
    ("supervisor.durable.stored_jobs", "supervisor.clients.client_link"),
    ("supervisor.durable.stored_jobs", "supervisor.clients.requests"),
    ("supervisor.durable.stored_jobs", "supervisor.supervisor"),
    ("supervisor.workers.processes", "supervisor.durable.durable_jobs"),
    ("supervisor.workers.templates", "supervisor.clients.client_link"),
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
    "dispatch.dispatcher: self._endings.stop_reason",
    "supervisor.supervisor: self._log.echo",
    "supervisor.supervisor: self._publisher.uncommitted",
    "supervisor.supervisor: self.crew.dispatcher",
    "supervisor.supervisor: self.crew.publisher",
    "supervisor.supervisor: self.crew.recording",
    "supervisor.supervisor: self.crew.templates",
    "supervisor.supervisor: self.templates.crew",
    "supervisor.supervisor: self.templates.dispatcher",
    "supervisor.workers.processes: Crew.dispatcher",
    "supervisor.workers.processes: Crew.publisher",
    "supervisor.workers.processes: Crew.templates",
    "supervisor.workers.processes: self.recording.last_answer",
    "supervisor.workers.templates: Templates.crew",
    "supervisor.workers.templates: Templates.dispatcher",
}
PRIVATE_TO_FACES = set()
IMPURE = {
    "dispatch.model",
}
