"""Everything that all processes of a pool agree on. No module here knows one of these processes.

Start with `wire` (the bytes between processes) and `states` (the life of a job); `recorder_wire` is for the store. `table/`
is the shared memory. `config` and `queues` have the settings, `records` the answers to users, `ids` job ids,
`store_address` the store's URL, `restarts` how often a process may be started again. All may be imported.
"""
