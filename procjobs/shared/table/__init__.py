"""The shared table: any process of the host reads there the state of jobs, workers and the pool.

Start with `layout`: the bytes, and the protocol by which one process writes a part and others read it. Each side has a
module: `state_writer` is for the supervisor, `progress_writer` for the worker that runs a job, `reader` for all others, and
`post_mortem` for clients and supervisors that find the table of a killed supervisor. All five may be imported.
"""
