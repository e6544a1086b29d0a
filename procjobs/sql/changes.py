"""Whether a session has changes that a rollback would lose: SQLAlchemy knows those not flushed, the rest is noted here."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.orm import ORMExecuteState, Session

_NOTE: Final = "procjobs_changed"


def watch() -> None:
    """Note from now on which sessions of this process have written."""
    if not event.contains(Session, "after_flush", _on_flush):
        event.listen(Session, "after_flush", _on_flush)
        event.listen(Session, "do_orm_execute", _on_execute)
        event.listen(Session, "after_transaction_end", _on_end)


def has_changes(session: Session) -> bool:
    """Return whether a rollback of this session would lose something."""
    return bool(session.new or session.dirty or session.deleted or session.info.get(_NOTE))


def _on_flush(session: Session, _context: Any) -> None:
    session.info[_NOTE] = True


def _on_execute(state: ORMExecuteState) -> None:
    if state.is_insert or state.is_update or state.is_delete:
        state.session.info[_NOTE] = True


def _on_end(session: Session, transaction: Any) -> None:
    if transaction.parent is None:
        session.info.pop(_NOTE, None)
