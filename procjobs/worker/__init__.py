"""A worker: the process that runs jobs, one at a time.

`worker` is the process, and where to start reading; `startup` makes one of a fresh fork, `awaiting` runs coroutines,
`wrappers` are entered around jobs, `exceptions` makes text of their exceptions. The template imports `run_worker` and
`WorkerSetup`, procjobs.sql `add_outermost`; `context` has the public functions that jobs call (progress, current_job).
"""
