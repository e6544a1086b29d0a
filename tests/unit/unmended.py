# ruff: noqa: E501
"""What `test_floors` finds and is still to be mended. These lists only shrink; when they are empty, this file goes."""

CIRCLES = [
    ["dispatch.assigner", "dispatch.completion", "dispatch.dispatcher", "dispatch.failures", "dispatch.limiters", "dispatch.model", "dispatch.pending", "dispatch.ports", "dispatch.queue", "dispatch.scaling", "dispatch.slots", "dispatch.watchdog", "supervisor.clients.client_link", "supervisor.clients.requests", "supervisor.clients.unique_keys", "supervisor.durable.durable_jobs", "supervisor.durable.recorder_link", "supervisor.durable.stored_jobs", "supervisor.durable.uncommitted", "supervisor.publisher", "supervisor.results", "supervisor.supervisor", "supervisor.workers.host_load", "supervisor.workers.output", "supervisor.workers.processes", "supervisor.workers.stacks", "supervisor.workers.templates", "supervisor.workers.worker_link"],
    ["sql", "sql.async_unit", "sql.configuration", "sql.sources", "sql.unit", "sql.waiting"],
    ["compat.asyncjob", "compat.asyncjob.alias", "compat.asyncjob.as_tgext", "compat.asyncjob.perform", "compat.asyncjob.progress", "compat.asyncjob.starting"],
]
UPWARD = {
    ("dispatch.model", "supervisor.durable.stored_jobs"),
    ("dispatch.model", "supervisor.workers.output"),
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
IMPURE = {
    "dispatch.model",
}
