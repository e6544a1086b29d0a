"""The store beside the supervisor: how jobs become durable, and how they come back.

Start with `durability`: what may be asked of a store, and `NoStore` for the pools that have none. `durable_jobs` is the real
one: it keeps answers and acknowledgements until they are committed (`uncommitted`). `recorder_process` runs the process that
talks to the database, `stored_jobs` has the jobs that are not in memory, `store_health` tells what is wrong.
"""
