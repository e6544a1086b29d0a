"""Progress in Redis: every host reads it there. Needs `pip install redis`."""

from __future__ import annotations

import json
from typing import Any


class RedisProgressTracker:
    """Keeps each entry for `timeout` seconds after its last report; `message` has to be something that JSON has."""

    def __init__(self, host: str = "localhost", port: int = 6379, db: int = 15, timeout: int = 3600) -> None:
        import redis

        self._address = host, port, db
        self.timeout = int(timeout)
        self.redis = redis.Redis(host=host, port=port, db=db)

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to a worker as an address: it opens a connection of its own."""
        return type(self), (*self._address, self.timeout)

    def track(self, entryid: str) -> None:
        """Enter a job that has not reported yet."""
        self.set_progress(entryid, -1, None)

    def remove(self, entryid: str) -> None:
        """Forget a job."""
        self.redis.delete(entryid)

    def set_progress(self, entryid: str, value: Any, message: Any) -> None:
        """Note how far a job is. The entry expires: a plain SET would make it stay for ever."""
        self.redis.set(entryid, json.dumps((value, message)), ex=self.timeout)

    def get_progress(self, entryid: str) -> tuple[Any, Any] | None:
        """Return (value, message), None for a job that is not here."""
        found: Any = self.redis.get(entryid)
        if found is None:
            return None
        value, message = json.loads(found)
        return value, message
