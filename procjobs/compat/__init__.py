"""The interfaces of other systems for background jobs, translated into the pool's own calls.

One folder for each: `asyncjob` is tgext.asyncjob's, and where to start reading; `simplequeue` is a queue of two calls.
Nothing else of the package imports from here, and of the package these import public names only: those of `procjobs`,
`procjobs.sql` and `procjobs.errors`.
"""
