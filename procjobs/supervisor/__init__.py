"""The supervisor: one process per pool that owns queue, timers, workers and clients.

Start with `supervisor`, whose main loop reads as the manual, and `composition`, which shows how a pool is put together.
`workers/` are the processes below it, `clients/` the connections above it, `durable/` the store beside it; all stand on
`registry`, the jobs by id. Its rules are in `procjobs.dispatch`. Nothing outside imports from here: `boot` is started as a
process.
"""
