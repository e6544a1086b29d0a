"""The model of an application as TurboGears makes it: a registry that is bound when the application starts."""

from __future__ import annotations

from sqlalchemy.orm import scoped_session, sessionmaker

from tests.sql.models import Part, Thing

__all__ = ["DBSession", "Part", "Thing"]

DBSession = scoped_session(sessionmaker())
