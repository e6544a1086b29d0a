"""Where sessions come from: an engine or sessionmaker, which makes one for each job, or an application's scoped_session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from procjobs.errors import ConfigurationError
from procjobs.sql import connections

if TYPE_CHECKING:
    from procjobs.sql.configuration import Database


class Source(Protocol):
    """Makes the session of a job, and closes it."""

    def open(self) -> Session:
        """Return the session of the job that runs; a new one the first time it asks."""

    def opened(self) -> Session | None:
        """Return the job's session, None if nothing has used one."""

    def close(self) -> None:
        """Close the job's session; its connection goes back to the engine's pool."""

    def give_up_inherited(self) -> None:
        """Let go of what another process has opened, without a word to the database."""


class OwnSessions:
    """Sessions that only procjobs hands out."""

    def __init__(self, maker: sessionmaker[Any]) -> None:
        self._maker = maker
        self._session: Session | None = None

    def open(self) -> Session:
        """See Source."""
        if self._session is None:
            self._session = self._maker()
        return self._session

    def opened(self) -> Session | None:
        """See Source."""
        return self._session

    def close(self) -> None:
        """See Source."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def give_up_inherited(self) -> None:
        """See Source."""
        connections.keep(self._session)
        self._session = None
        connections.replace_pool(self._maker.kw.get("bind"))


class ScopedSessions:
    """The sessions of an application's registry, which jobs may use without asking procjobs."""

    def __init__(self, registry: scoped_session[Any]) -> None:
        self._sessions = registry

    def open(self) -> Session:
        """See Source."""
        session: Session = self._sessions()
        return session

    def opened(self) -> Session | None:
        """See Source."""
        return self.open() if self._sessions.registry.has() else None

    def close(self) -> None:
        """See Source."""
        self._sessions.remove()

    def give_up_inherited(self) -> None:
        """See Source."""
        if self._sessions.registry.has():
            connections.keep(self.open())
            self._sessions.registry.clear()
        maker = self._sessions.session_factory
        connections.replace_pool(maker.kw.get("bind") if isinstance(maker, sessionmaker) else None)


def make_engine(url: URL | str) -> Engine:
    """Return an engine for jobs: a connection lives on between them, and a ping tells one that the server has closed."""
    return create_engine(url, pool_pre_ping=True)


def make_source(database: Database) -> Source:
    """Return where the sessions of jobs come from; calls the function of a user who gave one."""
    sessions: Any = database
    if isinstance(sessions, URL):
        sessions = make_engine(sessions)
    elif not isinstance(sessions, Engine | sessionmaker | scoped_session):
        sessions = sessions()
    if isinstance(sessions, Engine):
        sessions = sessionmaker(sessions)
    if isinstance(sessions, scoped_session):
        return ScopedSessions(sessions)
    if isinstance(sessions, sessionmaker):
        return OwnSessions(sessions)
    raise ConfigurationError(
        f"the function given as database returned {sessions!r}: expected an Engine, a sessionmaker or a scoped_session"
    )


class LateSource:
    """A source that is made when it is needed: a user's function may do what a fork would break."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._source = make_source(database) if isinstance(database, Engine | sessionmaker | scoped_session) else None

    def resolve(self) -> Source:
        """Return the source."""
        if self._source is None:
            self._source = make_source(self._database)
        return self._source

    def give_up_inherited(self) -> None:
        """Do that in a process that was just forked."""
        if self._source is not None:
            self._source.give_up_inherited()
