"""The store: jobs that survive their supervisor, in SQLite or PostgreSQL. Except for users' sessions, all SQL is here.

Start with `recorder`, the one process that writes. It reads batches from `supervisor_link`; `journal` writes their events
as the rows of `changes`, `questions` answers, `rescue` finds unfinished jobs, and `retention` drops old ones.
Other processes import `reading` (status, history and output of jobs), `database`, `schema` and `journal.read_whole`.
Nothing is imported in this file, so that `import procjobs` loads no SQLAlchemy.
"""
