"""Database sessions inside jobs: each job is one transaction, committed when it returns and rolled back when it does not.

    pool = procjobs.Pool("media", database="postgresql+psycopg://app@/app")

    def rename(user_id: int, name: str) -> None:
        procjobs.sql.session().get(User, user_id).name = name

1. A job's transaction is committed after the job has returned and its result was pickled, and before any process sees it
   as finished. If the commit fails, the job has failed.
2. Every other end of the job rolls it back: an exception, a timeout, a cancellation, the death of the process.
3. A session is made when it is first asked for, belongs to one attempt of one job, and is closed with it.
4. A coroutine that is a job has an AsyncSession, `async_session()`: the same, within its event loop.
5. No process uses a connection that another one has opened (see procjobs.sql.connections).

Start reading in `unit`; `async_unit` is the same for coroutines. `configuration` says which database, `databases` has the
types that it may have, `sources` and `async_sources` make its sessions, `waiting` waits for rows. The names in `__all__` may
be imported by users and by the faces, `configuration` by the client.

`connection_to` is for the faces that keep tables of their own in the database of a store: the one connection that this
process has to it, outside of jobs and sessions.
"""

from procjobs.sql.async_unit import async_session, async_transaction
from procjobs.sql.configuration import configure
from procjobs.sql.unit import session, transaction
from procjobs.sql.waiting import async_wait_for, wait_for
from procjobs.store.own_connection import OwnConnection, connection_to

__all__ = [
    "OwnConnection", "async_session", "async_transaction", "async_wait_for", "configure", "connection_to", "session",
    "transaction", "wait_for",
]  # fmt: skip
