"""What a program has configured: held for the whole process and its children, read by every call."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final
from urllib.parse import urlsplit

from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from procjobs import Pool, PullQueue
from procjobs.compat.taskqueue.errors import NotConfiguredError, UnknownQueueError
from procjobs.compat.taskqueue.settings import queue_yaml
from procjobs.compat.taskqueue.settings.queue_yaml import QueueFile
from procjobs.compat.taskqueue.settings.queues import QueueSettings
from procjobs.compat.taskqueue.store import transactional
from procjobs.compat.taskqueue.store.database import Database
from procjobs.errors import ConfigurationError

_POOL: Final = "taskqueue"

SessionSource = Callable[[], Any]
"""A scoped_session, a sessionmaker, or a function that returns the session of the moment."""


@dataclass(frozen=True)
class Configuration:
    """What holds now. Nothing is opened here."""

    base_url: str | None
    targets: Mapping[str, str]
    file: QueueFile
    session: SessionSource | None
    pool: Pool | str | None
    store: str
    """The URL of the database of the tasks."""

    @property
    def queues(self) -> Mapping[str, QueueSettings]:
        """All queues by name, the default one among them."""
        return self.file.queues

    @property
    def total_storage_limit(self) -> int | None:
        """The most bytes of all tasks together; None: no limit."""
        return self.file.total_storage_limit

    def queue(self, name: str) -> QueueSettings:
        """Return a queue; raise UnknownQueueError for one that is not in queue.yaml."""
        try:
            return self.queues[name]
        except KeyError:
            raise UnknownQueueError(
                f"there is no queue {name!r}: queue.yaml has {', '.join(sorted(self.queues))}. After a change of the file, "
                "call configure() again"
            ) from None

    @cached_property
    def database(self) -> Database:
        """The database of the tasks; nothing is opened before it is used."""
        return Database(self.store)


_lock = threading.Lock()
_given: dict[str, Any] = {}
_current: Configuration | None = None


def settle(new: Mapping[str, Any]) -> Configuration:
    """Let these settings, named as the arguments of `configure`, take the place of earlier ones; return what holds now.

    queue.yaml is read again. Raise ConfigurationError for wrong values; then everything stays as it was.
    """
    global _current, _given
    with _lock:
        given = {**_given, **new}
        current = _make(given)
        _given, _current = given, current
        return current


def _make(given: Mapping[str, Any]) -> Configuration:
    base_url, session = given.get("base_url"), given.get("session")
    targets, pool = given.get("targets") or {}, given.get("pool")
    if not isinstance(targets, Mapping):
        raise ConfigurationError(f"targets={targets!r}: expected a mapping of names to urls")
    if session is not None:
        transactional.check_source(session)
    if not isinstance(pool, Pool | str | None) or (isinstance(pool, Pool) and pool.name is None):
        raise ConfigurationError(f"pool={pool!r}: expected a Pool with a name, or the name alone")
    path = given["queue_yaml"] if "queue_yaml" in given else queue_yaml.find_default()
    return Configuration(
        base_url=None if base_url is None else _check_url("base_url", base_url),
        targets={str(name): _check_url(f"targets[{name!r}]", url) for name, url in targets.items()},
        file=queue_yaml.NO_FILE if path is None else queue_yaml.read(path),
        session=session,
        pool=pool,
        store=_find_store(given.get("store"), session, pool),
    )


def _find_store(given: str | bool | None, session: Any, pool: Pool | str | None) -> str:
    """Return the URL of the given store, else of the session's, the pool's or its settings', else of the default file."""
    name = _name_of(pool)
    of_pool = pool.store if isinstance(pool, Pool) else None
    chosen = given
    if given is None:
        chosen = _database_of(session) or of_pool or PullQueue(pool=name).store or True
    url = PullQueue(pool=name, store=chosen).store  # it knows what a store can be
    if url is None:
        raise ConfigurationError("store=False: tasks are kept in a database. Give its URL, or nothing for a file")
    return url


def _name_of(pool: Pool | str | None) -> str:
    """Return the name of the pool whose settings may say where the store is."""
    if pool is None:
        return _POOL
    return str(pool.name) if isinstance(pool, Pool) else pool


def _check_url(name: str, url: object) -> str:
    """Return a url without a slash at its end."""
    expected = f"{name}={url!r}: expected a url such as 'http://127.0.0.1:8080'"
    if not isinstance(url, str):
        raise ConfigurationError(expected)
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise ConfigurationError(f"{expected}; {error}") from None
    if not is_whole or parts.query or parts.fragment:
        raise ConfigurationError(f"{expected}, with no query")
    return url.rstrip("/")


def _database_of(source: Any) -> str | None:
    """Return the URL of the database of a session, None without one; raise ConfigurationError if that can be no store."""
    if source is None:
        return None
    try:
        url = _url_of(source)
    except Exception as error:  # of a function or a session of the application
        raise ConfigurationError(
            f"session= does not say here which database it has ({type(error).__name__}: {error}): give it as store=, too"
        ) from error
    if url.get_backend_name() == "postgresql":
        return str(url.render_as_string(hide_password=False))
    database = url.database or ":memory:"
    if url.get_backend_name() != "sqlite" or database == ":memory:" or database.startswith("file:"):
        raise ConfigurationError(
            f"tasks cannot be kept in the database of session=, {url.render_as_string()}: they need PostgreSQL or a file of "
            "SQLite. Give another one as store=; without session= there are no tasks of transactions"
        )
    return f"sqlite:///{database}"


def _url_of(source: Any) -> URL:
    is_new = isinstance(source, scoped_session) and not source.registry.has()
    made = source if isinstance(source, Session | Connection) else source()
    if isinstance(made, sessionmaker | scoped_session):
        return _url_of(made)
    try:
        bind: Engine | Connection = made if isinstance(made, Connection) else made.get_bind()
        return bind.engine.url
    finally:
        if is_new:
            source.remove()
        elif isinstance(source, sessionmaker):
            made.close()


def current() -> Configuration:
    """Return what holds; raise NotConfiguredError if nothing was configured."""
    if _current is None:
        raise NotConfiguredError(
            "the task queues are not configured: call procjobs.compat.taskqueue.configure(base_url='http://127.0.0.1:8080') "
            "when the application starts"
        )
    return _current


def is_configured() -> bool:
    """Return whether `configure` was called."""
    return _current is not None


def forget() -> None:
    """Forget everything that was configured; for tests."""
    global _current
    with _lock:
        _given.clear()
        _current = None


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
