"""What the tests have in their databases."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "things"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str | None] = mapped_column()


class Part(Base):
    """Belongs to a thing, which is checked at the commit (as far as the database can)."""

    __tablename__ = "parts"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    thing_id: Mapped[int] = mapped_column(sa.ForeignKey("things.id", deferrable=True, initially="DEFERRED"))


class Database:
    """A database with these tables, looked at from outside the pool."""

    def __init__(self, url):
        self.url = url
        self.engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        Base.metadata.create_all(self.engine)

    def names(self):
        """Return {id: name} of what is committed."""
        with self.engine.connect() as connection:
            return dict(connection.execute(sa.select(Thing.id, Thing.name).order_by(Thing.id)).all())

    def add(self, number, name):
        with self.engine.begin() as connection:
            connection.execute(sa.insert(Thing).values(id=number, name=name))

    def writers(self):
        """Return how many transactions have written and are not over; of SQLite, whether one holds the lock."""
        if self.engine.dialect.name == "sqlite":
            with self.engine.connect() as connection:
                connection.execute(sa.text("PRAGMA busy_timeout=0"))
                try:
                    connection.execute(sa.text("BEGIN IMMEDIATE"))
                except sa.exc.OperationalError:
                    return 1
                return 0
        with self.engine.connect() as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL"
            return connection.scalar(sa.text(query))
