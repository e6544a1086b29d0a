"""The store: jobs that survive their supervisor, in SQLite or PostgreSQL. Except for users' sessions, all SQL is here.

Start with `recorder`, the one process that writes. It reads batches from `supervisor_link`; `journal` writes their events
as the rows of `changes`, `questions` answers, `rescue` finds unfinished jobs, and `retention` drops old ones.
Pull queues have no recorder: each process writes by itself. There start with `consumers`; `pull_table` has the rows,
`holders` tells whether a consumer has ended, `own_connection` is the connection of a process.
Other processes import `reading` (status, history and output of jobs), `database`, `schema` and `journal.read_whole`.
Nothing is imported in this file, so that `import procjobs` loads no SQLAlchemy.
"""
