"""The clients of the supervisor: their connections, their frames, their calls.

Start with `connections` (bytes in and out), then `requests` (one function for each kind of frame), `calls` (one for each
call by name) and `admission` (which jobs come into the core). `unique_keys` are the jobs that are the only one of their
key. Those below know a client as `procjobs.supervisor.job.Watcher` alone.
"""
