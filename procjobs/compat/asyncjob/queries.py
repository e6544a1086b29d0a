"""Waiting for what the request that has started the job is about to commit."""

from __future__ import annotations

from typing import Any


def asyncjob_timed_query(query: Any, retries: int = 10, interval: float = 6) -> Any:
    """Wait until the query finds a row, and return the query; at most `retries * interval` seconds.

    It looks at once, then after 10 ms, and ever less often up to once a second; no exception if there is no row in the
    end. Each look is a transaction of its own, unless the session has changes already, which are not given up for it.
    """
    from procjobs.sql.waiting import look_for

    look_for(query, max(retries * interval, 0.0))
    return query
