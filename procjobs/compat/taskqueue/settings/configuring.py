"""The call that says what the queues need."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from procjobs.compat.taskqueue import sending
from procjobs.compat.taskqueue.errors import TransientError
from procjobs.compat.taskqueue.settings import configuration

if TYPE_CHECKING:
    from procjobs import Pool
    from procjobs.compat.taskqueue.settings.configuration import SessionSource

_log: Final = logging.getLogger("procjobs.taskqueue")
_INSIDE: Final = "PROCJOBS_POOL"
"""A variable of the environment that all processes of pools have."""


class _NotGiven:
    def __repr__(self) -> str:
        return "as it was"


_NOT_GIVEN: Final[Any] = _NotGiven()
"""The setting is to stay as an earlier call has set it."""


def configure(
    *,
    base_url: str | None = _NOT_GIVEN,
    queue_yaml: str | os.PathLike[str] | None = _NOT_GIVEN,
    store: str | bool | None = _NOT_GIVEN,
    session: SessionSource | None = _NOT_GIVEN,
    targets: Mapping[str, str] | None = _NOT_GIVEN,
    pool: Pool | str | None = _NOT_GIVEN,
) -> None:
    """Say what the queues need, when the application starts; each process says the same.

    A later call changes the settings that it is given, leaves the others, and reads queue.yaml again.

    base_url: where the handlers are, such as "http://127.0.0.1:8080"; push tasks need it. As soon as it is known, a pool is
        started that sends them, those too that were added before. That blocks until the pool is there. In a process of a
        pool, which may be one of its templates, the first `add` does that.
    queue_yaml: the path of the file with the queues; None for none. By default that of the current directory is taken if
        there is one. Without a file there is the queue "default", with 5 tasks per second.
    store: the database of the tasks: a URL such as "sqlite:///tasks.db" or "postgresql+psycopg://...", or True for a file in
        the user's state directory. By default it is the database of `session`, else the store of `pool` or in its settings
        (docs/settings.md), else as for True.
    session: a scoped_session, a sessionmaker, or a function that returns a session: tasks that are added with
        `transactional=True` belong to its transaction. Its database has to be that of the tasks.
    targets: urls of other applications, by the name that tasks or queues give as `target`.
    pool: a pool, or the name of one, whose workers send the tasks: one of them is taken for good. By default it is a pool of
        the queues' own, with one worker.

    Raise ConfigurationError for values that can be none of these, and for a queue.yaml that breaks a rule; then everything
    stays as it was. A database or a pool that cannot be used yet is a warning in the log, and tried again by `add`.
    """
    if queue_yaml is not None and queue_yaml is not _NOT_GIVEN:
        queue_yaml = os.path.abspath(queue_yaml)
    names = ("base_url", "queue_yaml", "store", "session", "targets", "pool")
    values = zip(names, (base_url, queue_yaml, store, session, targets, pool), strict=True)
    current = configuration.settle({name: value for name, value in values if value is not _NOT_GIVEN})
    if _INSIDE in os.environ:  # a template that had connections and threads could not be forked: `add` is early enough
        return
    try:
        sending.ensure(current)
    except TransientError as error:
        _log.warning("no tasks are sent yet: %s", error)
