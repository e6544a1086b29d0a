"""The processes below the supervisor: workers, the templates that fork them, and everything that jobs start.

Start with `processes`, the core's `Workers` port; `worker_link` has its pipes, `templates` the forks, `output` and `stacks`
the pipes beside them, `usage` and `host_load` the facts. `reaper` kills the processes that a job left behind. Their rare
events are values in `events`; nobody here knows the core, a client or the store.
"""
