"""Where requests go and how long they may take: told by `configure` in the database, read by the sender of whatever pool."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, insert, select, update

from procjobs.compat.taskqueue.settings.queues import QueueSettings
from procjobs.compat.taskqueue.store.rows import write_queues
from procjobs.compat.taskqueue.store.tables import settings

DEFAULT_TIMEOUT: Final = 600.0
"""How long a request may take where neither its task nor the pool says anything. Seconds."""
KEY: Final = "destinations"
"""The row of the table of settings."""


class Destinations(NamedTuple):
    """The base urls, without the path of a task, and the seconds that a request may take."""

    base_url: str
    targets: Mapping[str, str] = {}
    timeout: float = DEFAULT_TIMEOUT

    def base_of(self, task_target: str | None, queue_target: str | None) -> str:
        """Return the base url for a task: that of its target, else of its queue's, else of the application."""
        name = queue_target if task_target is None else task_target
        return self.targets.get(name or "", self.base_url)

    def to_json(self) -> str:
        """Return JSON text that `from_json` reads."""
        return json.dumps(self._asdict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Destinations:
        """Return what `to_json` has written."""
        values: dict[str, Any] = json.loads(text)
        return cls(**values)


def publish(connection: Connection, destinations: Destinations, configured: Iterable[QueueSettings]) -> None:
    """Write what the sender works with from now on, within an open transaction; does nothing where it is there already.

    A queue that is not among `configured` any more keeps its settings.
    """
    write_queues(connection, configured)
    _write_setting(connection, KEY, destinations.to_json())


def _write_setting(connection: Connection, key: str, value: str) -> None:
    found = connection.scalar(select(settings.c.value).where(settings.c.key == key))
    if found is None:
        connection.execute(insert(settings).values(key=key, value=value))
    elif found != value:
        connection.execute(update(settings).where(settings.c.key == key).values(value=value))
