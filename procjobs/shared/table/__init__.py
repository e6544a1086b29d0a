"""The shared table: where any process of the host reads what a job, a worker or the pool is doing.

Start with `layout`: the bytes, and the protocol by which one process writes a part and others read it. Each side has a
module: `state_writer` the supervisor, `progress_writer` the worker that runs a job, `reader` all others, `post_mortem`
whoever finds the table of a supervisor that was killed.
"""
