"""The application's tables, and its registry of sessions, as in TurboGears' quickstart."""

import zope.sqlalchemy
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

DBSession = scoped_session(sessionmaker(autoflush=True))
zope.sqlalchemy.register(DBSession)


class Base(DeclarativeBase):
    pass


class Film(Base):
    __tablename__ = "films"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    state: Mapped[str] = mapped_column(default="uploaded")


def init_model(engine: Engine):
    """Bind the sessions to the database of the configuration; TurboGears calls it."""
    DBSession.configure(bind=engine)
    return DBSession


def create_tables(engine: Engine) -> None:
    """Create missing tables. All web workers do this at the same moment."""
    try:
        Base.metadata.create_all(engine)
    except DBAPIError:  # another web worker was faster, and has committed by now
        Base.metadata.create_all(engine)
