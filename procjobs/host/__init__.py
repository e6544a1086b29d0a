"""Everything that touches the operating system, and decides nothing about jobs.

Start with `process` (fork, kill, reap) and `loop` (the only place that blocks). Further: `payload` (pickles and memory
files), `descriptors` (that arrive over sockets), `rundir` (the pool's files), `ownership` (whose files are trusted),
`signature` (what may be removed), `observe` (other processes), and the facts of the host with the size that follows from
them (`hostinfo`, `cpus`, `pressure`, `footprints`, `sizing`). All may be imported.
"""
