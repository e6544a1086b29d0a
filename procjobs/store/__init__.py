"""The store: jobs that survive their supervisor, in SQLite or PostgreSQL. The only place with SQL, but for users' sessions.

`recorder` is the process that writes; `journal` turns events into rows; `rescue` finds what was not finished; `schema` has
the tables and their versions; `reading` is what any process looks up by itself.
"""
