"""The context managers that jobs run inside of: one around every job, another one around each coroutine.

procjobs.sql sets them, and so makes each job a transaction. Without them a job pays nothing for their absence.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager

Middleware = Callable[[], AbstractContextManager[None]]
AsyncMiddleware = Callable[[], AbstractAsyncContextManager[None, None]]

around_job: Middleware | None = None
around_coroutine: AsyncMiddleware | None = None
"""Is entered in the coroutine's event loop, inside `around_job`."""


def set_middleware(job: Middleware | None, coroutine: AsyncMiddleware | None = None) -> None:
    """Run each job inside these. The job's exception goes through them, and one that they raise is the job's."""
    global around_job, around_coroutine
    around_job, around_coroutine = job, coroutine
