"""Jobs that exist if the caller's own transaction is committed: written through his session, told of after its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event, insert
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.orm import Session

from procjobs.client.job import Job
from procjobs.client.kinds import OPTIONS_ATTRIBUTE
from procjobs.clock import monotonic, sleep, wall
from procjobs.errors import ConfigurationError, PayloadError, ProcjobsError, StoreUnavailable, SupervisorLost
from procjobs.host import payload
from procjobs.shared.ids import new_id
from procjobs.shared.wire import U32
from procjobs.store.address import hide_password, split_options, sqlite_path
from procjobs.store.journal import read_whole
from procjobs.store.schema import outbox

if TYPE_CHECKING:
    from procjobs.client.connection import Connection as PoolConnection
    from procjobs.client.pool import Pool

_PATIENCE: Final = 10.0
_SUBMITTED: Final = "procjobs_submitted"
"""Where a session keeps what was submitted through it: (transaction, pool, job) for each."""
_Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def submit_on_commit(
    pool: Pool, session: Session, call: _Call, changes: Mapping[str, Any], delay: float, expires: float, key: bytes
) -> Job[Any]:
    """Write a call into the outbox through a session; what `Submitter.submit_on_commit` does."""
    if not isinstance(session, Session):
        raise ConfigurationError(
            f"submit_on_commit takes an SQLAlchemy Session, not {type(session).__name__}; of an AsyncSession: "
            "await session.run_sync(lambda session: pool.submit_on_commit(session, fn, ...))"
        )
    fn, args, kwargs = call
    connection = pool._connect()  # noqa: SLF001 - the pool's own
    _check_database(pool, connection.welcome["settings"].get("store"), session)
    _wait_for_store(pool)
    options = pool.merged_options(getattr(fn, OPTIONS_ATTRIBUTE, None) or {}, changes)
    registered = connection.register(fn, options)
    job: Job[Any] = Job(pool, new_id(), registered.name)
    inline, data = _dump(job, (fn, args, kwargs) if registered.carries_function else (args, kwargs), args)
    (length,) = U32.unpack_from(registered.description)
    now = wall()
    row = {
        "id": job.id, "pool": connection.welcome["store_name"],
        "description": registered.description[4 : 4 + length], "function": registered.description[4 + length :],
        "call": inline, "call_data": data, "key": key or None, "submitted_at": now,
        "not_before": now + delay if delay else None, "expires_at": now + expires if expires else None,
    }  # fmt: skip
    session.execute(insert(outbox).values(row))
    _tell_at_end(session, pool, job)
    return job


def _dump(job: Job[Any], call: tuple[Any, ...], args: tuple[Any, ...]) -> tuple[bytes, bytes | None]:
    try:
        inline, fd = payload.dump(call, "/tmp", args)  # noqa: S108 - an unnamed file, where there is no memfd
    except Exception as error:
        raise PayloadError(payload.explain(call, job.name, error)) from error
    if fd is None:
        return inline, None
    try:
        return inline, read_whole(fd)
    finally:
        os.close(fd)


def _check_database(pool: Pool, store: str | None, session: Session) -> None:
    """Refuse a session whose commits the pool's recorder would never see."""
    if store is None:
        raise ConfigurationError(f"{pool!r} has no store: submit_on_commit needs Pool(store=...)")
    bind = session.get_bind()
    url = (bind.engine if isinstance(bind, Connection) else bind).url
    path = sqlite_path(store)
    if path is not None:
        is_same = url.get_backend_name() == "sqlite" and os.path.realpath(url.database or "") == os.path.realpath(path)
    else:
        own = make_url(split_options(store)[0])
        is_same = url.get_backend_name() == own.get_backend_name() and url.database == own.database
    if not is_same:
        shown = url.render_as_string(hide_password=True)
        raise ConfigurationError(
            f"the session is one of {shown}, and the store of {pool!r} is {hide_password(store)}: submit_on_commit needs "
            "them to be the same database, so that one commit makes both"
        )


def _wait_for_store(pool: Pool) -> None:
    """Wait until the store's tables are there: the pool may have been started a moment ago."""
    deadline = monotonic() + _PATIENCE
    while (state := pool.stats().store) != "available":
        if monotonic() > deadline:
            raise StoreUnavailable(f"the store of {pool!r} is {state}")
        sleep(0.01)


def _tell_at_end(session: Session, pool: Pool, job: Job[Any]) -> None:
    """Ask for the answer when the outermost transaction has ended: whether the job is there, its database knows."""
    session.info.setdefault(_SUBMITTED, []).append((session.get_transaction(), pool, job))
    if not event.contains(session, "after_transaction_end", _on_end):  # once: it cannot be removed while it runs
        event.listen(session, "after_transaction_end", _on_end)


def _on_end(session: Session, transaction: Any) -> None:
    submitted = session.info.get(_SUBMITTED, [])
    session.info[_SUBMITTED] = [entry for entry in submitted if entry[0] is not transaction]
    for begun, pool, job in submitted:
        if begun is transaction:
            _ask_for_answer(pool, job)


def _ask_for_answer(pool: Pool, job: Job[Any]) -> None:
    """Tell the pool to look into the outbox; whatever is wrong with it, the caller's transaction has ended as it has."""
    try:
        connection: PoolConnection = pool._connect()  # noqa: SLF001 - the pool's own
        connection.sweep_outbox()
        connection.watch(job)
    except ProcjobsError as error:
        text = f"job {job.id} {job.name} runs if its transaction was committed; its answer could not be asked for: {error}"
        job.abandon(SupervisorLost(text))
