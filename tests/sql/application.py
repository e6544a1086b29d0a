"""A module as applications have it: engine and registry made when it is imported, here and in the template."""

from __future__ import annotations

import os

import sqlalchemy as sa
from sqlalchemy.orm import scoped_session, sessionmaker

from procjobs import sql

engine = sa.create_engine(os.environ["TEST_DATABASE"], poolclass=sa.pool.QueuePool, pool_size=2)
DBSession = scoped_session(sessionmaker(bind=engine))
how = os.environ.get("TEST_APPLICATION", "")
if how.startswith("zope"):
    import zope.sqlalchemy

    zope.sqlalchemy.register(DBSession)


def backend_of(connection):
    """Return what tells a connection from others: who serves it, or the file behind it."""
    if connection.dialect.name == "postgresql":
        return connection.scalar(sa.text("SELECT pg_backend_pid()"))
    return id(connection.connection.driver_connection)


if how.endswith("used"):
    # One connection goes back to the engine's pool, another one stays checked out by a session.
    DBSession.connection()
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
other_engine = sa.create_engine(os.environ["TEST_DATABASE"], poolclass=sa.pool.QueuePool)
with other_engine.connect() as connection:
    other_backend = backend_of(connection)

sql.configure({"engine": engine, "sessionmaker": DBSession.session_factory}.get(how.split(" ")[0], DBSession))
