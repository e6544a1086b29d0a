"""Waiting for rows that the request which has started the job is about to commit."""

from __future__ import annotations

import time
from typing import Any, Final

from procjobs import ConfigurationError

_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 1.0


def asyncjob_timed_query(query: Any, retries: int = 10, interval: float = 6) -> Any:
    """Wait until the query finds a row, and return the query; at most `retries * interval` seconds.

    It looks at once, then after 10 ms, and ever less often up to once a second; no exception if there is no row in the
    end. Each look is a transaction of its own, unless the session has changes already, which are not given up for it.
    """
    from procjobs import sql

    seconds = max(retries * interval, 0.0)
    try:
        sql.wait_for(query, seconds)
    except ConfigurationError:  # the session has changes, which the end of its transaction would lose
        _look_within_transaction(query, seconds)
    return query


def _look_within_transaction(query: Any, seconds: float) -> None:
    """Look again and again, which finds new rows under READ COMMITTED."""
    from procjobs import sql

    look = query.first if hasattr(query, "first") else lambda: sql.session().execute(query).first()
    deadline, pause = time.monotonic() + seconds, _FIRST_PAUSE
    while look() is None and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)
