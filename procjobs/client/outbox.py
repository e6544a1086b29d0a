"""Jobs that exist if the caller's own transaction is committed: written through the caller's session.

A job is an object of the outbox's table that is added to the session. That emits no SQL, so it can be done where nothing can
be awaited, and the session of an AsyncSession takes it like any other. SQLAlchemy's unit of work then treats it rightly at
each savepoint. The begin of one flushes objects that were added before, so that they stay when the savepoint is rolled back;
its release flushes those that were added within; its rollback expunges those, flushed or not.

The object also is one of the session's changes that others look for: zope.sqlalchemy commits it, and `procjobs.sql.wait_for`
does not roll it back. To write the jobs in an event before the commit would be too early for a hook that submits after the
flush.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import event, inspect
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import SQLAlchemyError, UnboundExecutionError
from sqlalchemy.orm import Session, registry

from procjobs.client import orm_arguments
from procjobs.client.connection.interruptible import came_from_outside
from procjobs.client.connection.submission import submission_of
from procjobs.client.job import Job
from procjobs.clock import wall
from procjobs.errors import ConfigurationError, PayloadError, ProcjobsError, StoreUnavailable, SupervisorLost
from procjobs.host import payload
from procjobs.shared.function_names import OPTIONS_ATTRIBUTE
from procjobs.shared.ids import new_id
from procjobs.shared.passwords import hide
from procjobs.shared.store_address import split_options, sqlite_path
from procjobs.shared.wire import U32
from procjobs.store.database import explain
from procjobs.store.journal import read_whole
from procjobs.store.schema import migrate, outbox

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import scoped_session

    from procjobs.client.connection.submission import Call, Submission, Terms
    from procjobs.client.job import StatusSource
    from procjobs.client.link import Link
    from procjobs.client.producer import Producer

_SUBMITTED: Final = "procjobs_submitted"
"""Where a session keeps the jobs that were submitted through it: (transaction, link of the pool, job) for each."""
AnySession: TypeAlias = "Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any]"


class OutboxRow:
    """A row of the outbox, for sessions."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            setattr(self, name, value)


registry().map_imperatively(OutboxRow, outbox)
_opened: weakref.WeakSet[Engine] = weakref.WeakSet()
"""The engines in whose databases the tables were seen."""


@event.listens_for(OutboxRow, "before_insert")
def _make_tables(_mapper: Any, connection: Connection, _row: OutboxRow) -> None:
    """Make the store's tables in the caller's transaction, if the pool's recorder has not come to that yet.

    The caller may have written to the database already. Where that is an SQLite file, the recorder waits for the end of the
    caller's transaction, so the caller must not wait for the recorder.
    """
    engine = connection.engine
    if engine in _opened:
        return
    if _is_up_to_date(connection):
        _opened.add(engine)
        return
    try:
        migrate(connection)
    except SQLAlchemyError as error:
        raise StoreUnavailable(
            f"the tables of the store are not there yet, and this transaction could not make them ({explain(error)}): start "
            "the pool, and wait until its stats().store is 'available'"
        ) from error


def _is_up_to_date(connection: Connection) -> bool:
    """Return whether the outbox is there, and has the columns of this release."""
    found = inspect(connection)
    if not found.has_table(outbox.name):
        return False
    return {column["name"] for column in found.get_columns(outbox.name)} >= set(outbox.columns.keys())


def submit_on_commit(
    producer: Producer, source: StatusSource, given: AnySession, call: Call, terms: Terms
) -> Job[Any]:
    """Write a call into the outbox through a session, as `Submitter.submit_on_commit` says."""
    session = _sync_session(given)
    if not session.is_active:
        session.connection()  # raises SQLAlchemy's error about a transaction that has failed or ended, before any SQL
    fn, args, kwargs = call
    orm_arguments.refuse(fn, args, kwargs)
    connection = producer.link.connect()
    _check_database(producer.link.label, connection.welcome["settings"].get("store"), session)
    options = producer.merged_options(getattr(fn, OPTIONS_ATTRIBUTE, None) or {}, terms.changes)
    kind = connection.register(fn, options)
    job: Job[Any] = Job(source, new_id(), kind.name, terms.meta)
    by_value = producer.link.caller.by_value
    inline, data = _dump(job, call if kind.carries_function else (args, kwargs), args, by_value)
    row = _describe(submission_of(job, kind, options, call, terms))
    session.add(OutboxRow({**row, "pool": connection.welcome["store_name"], "call": inline, "call_data": data}))
    _ask_at_end(session, producer.link, job)
    return job


def _describe(submission: Submission) -> dict[str, Any]:
    """Return the columns of a row that say what the job is and when it may run."""
    description, delay, expires = submission.kind.description, submission.delay, submission.terms.expires
    (length,) = U32.unpack_from(description)
    now = wall()
    return {
        "id": submission.handle.id, "key": submission.terms.key or None, "meta": submission.terms.meta.decode() or None,
        "description": description[4 : 4 + length], "function": description[4 + length :],
        "submitted_at": now,
        "not_before": now + delay if delay else None, "expires_at": now + expires if expires else None,
    }  # fmt: skip


def _sync_session(given: Any) -> Session:
    """Return the Session that is given, is behind an AsyncSession, or is a registry's at the moment."""
    session = given() if hasattr(given, "registry") else given
    session = getattr(session, "sync_session", session)
    if not isinstance(session, Session):
        raise ConfigurationError(
            f"submit_on_commit takes an SQLAlchemy Session or AsyncSession, not {type(given).__name__}; of a Connection: "
            "Session(bind=connection)"
        )
    return session


def _dump(
    job: Job[Any], call: tuple[Any, ...], args: tuple[Any, ...], by_value: AbstractSet[str]
) -> tuple[bytes, bytes | None]:
    try:
        inline, file = payload.dump(call, "/tmp", args, by_value)  # noqa: S108 - unnamed, where there is no memfd
    except Exception as error:
        if came_from_outside(error):
            raise
        raise PayloadError(payload.explain(call, job.name, error, by_value)) from error
    return inline, None if file is None else read_whole(file.fileno())


def _check_database(label: str, store: str | None, session: Session) -> None:
    """Raise ConfigurationError for a session whose commits the pool's recorder would never see."""
    if store is None:
        raise ConfigurationError(f"{label} has no store: submit_on_commit needs Pool(store=...)")
    try:
        bind = session.get_bind(OutboxRow)
    except UnboundExecutionError as error:
        raise ConfigurationError(
            f"the session has no database for the table {outbox.name}, where submit_on_commit writes; give it a bind="
        ) from error
    url = (bind.engine if isinstance(bind, Connection) else bind).url
    path = sqlite_path(store)
    if path is not None:
        is_same = url.get_backend_name() == "sqlite" and os.path.realpath(url.database or "") == os.path.realpath(path)
    else:
        own = make_url(split_options(store)[0])
        is_same = url.get_backend_name() == own.get_backend_name() and url.database == own.database
    if not is_same:
        shown = hide(url.render_as_string(hide_password=False))
        raise ConfigurationError(
            f"the session is one of {shown}, and the store of {label} is {hide(store)}: submit_on_commit needs "
            "them to be the same database, so that one commit makes both"
        )


def _in_event_loop() -> bool:
    """Return whether this thread runs a loop of asyncio; a process that has not loaded that runs none."""
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio is not None and asyncio.get_running_loop() is not None
    except RuntimeError:
        return False


def _ask_at_end(session: Session, link: Link, job: Job[Any]) -> None:
    """Ask for the answer when the outermost transaction has ended: whether the job is there, its database knows."""
    session.info.setdefault(_SUBMITTED, []).append((session.get_transaction(), link, job))
    if not event.contains(session, "after_transaction_end", _on_end):  # once: it cannot be removed while it runs
        event.listen(session, "after_transaction_end", _on_end)


def _on_end(session: Session, transaction: Any) -> None:
    submitted = session.info.get(_SUBMITTED, [])
    session.info[_SUBMITTED] = [entry for entry in submitted if entry[0] is not transaction]
    for begun, link, job in submitted:
        if begun is not transaction:
            continue
        if _in_event_loop():
            _notifier.notify(link, job)
        else:
            _ask_for_answer(link, job)


def _ask_for_answer(link: Link, job: Job[Any]) -> None:
    """Have the pool look into its outbox; whatever is wrong with it, the caller's transaction has ended as it has."""
    try:
        connection = link.connect()
        connection.requests.post("sweep")
        connection.watch(job)
    except ProcjobsError as error:
        text = f"job {job.id} {job.name} runs if its transaction was committed; its answer could not be asked for: {error}"
        job.abandon(SupervisorLost(text))


class _CommitNotifier:
    """Notifies pools of transactions that have ended in an event loop, which must not wait for a supervisor that is stuck.

    Its thread ends when nothing is left to do. The interpreter waits for it; the pool would find the jobs too.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Link, Job[Any]]] = deque()
        self._is_running = False

    def notify(self, link: Link, job: Job[Any]) -> None:
        self._waiting.append((link, job))
        if not self._is_running:
            threading.Thread(target=self._notify_all, name="procjobs-outbox").start()

    def _notify_all(self) -> None:
        while self._waiting:  # asked again once it is said that nobody runs: one may have come in between
            self._is_running = True
            with contextlib.suppress(IndexError):  # there may be two of these threads for a moment
                while True:
                    _ask_for_answer(*self._waiting.popleft())
            self._is_running = False


_notifier = _CommitNotifier()


def _after_fork_in_child() -> None:
    global _notifier
    _notifier = _CommitNotifier()  # the thread is the parent's, and so are the jobs that wait for it


os.register_at_fork(after_in_child=_after_fork_in_child)
