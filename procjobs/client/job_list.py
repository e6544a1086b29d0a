"""The list of jobs that a pool's shared table has: filtered, the newest first, a page at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from procjobs.errors import ConfigurationError, UnknownJob
from procjobs.shared.ids import from_text
from procjobs.shared.states import FINAL, JobState
from procjobs.shared.suggestions import suggest
from procjobs.shared.table.layout import STATE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from procjobs.shared.ids import JobId
    from procjobs.shared.records import JobStatus
    from procjobs.shared.table.reader import ProgressTable

STATES: Final = {state.text: state for state in JobState}


def check_state(state: str | None) -> JobState | None:
    """Return the state of that name; raise ConfigurationError if there is none."""
    if state is not None and state not in STATES:
        raise ConfigurationError(f"unknown state{suggest([state], list(STATES))}")
    return None if state is None else STATES[state]


def check_before(before: JobId | None) -> bytes | None:
    """Return the bytes of the id before which a page begins; raise ConfigurationError if it is no id."""
    try:
        return None if before is None else from_text(before)
    except UnknownJob:
        raise ConfigurationError(f"before={str(before)[:100]!r} is no job id") from None


def list_jobs(
    table: ProgressTable, state: JobState | None, limit: int, search: str | None, before: bytes | None, *, data: bool
) -> list[JobStatus]:
    """Return up to `limit` jobs, the newest first; what the arguments are, `Monitor.jobs` says."""
    rows = [(body[:16], row, body) for row, body in table.rows() if _may_be(body, state)]
    rows.sort(reverse=True)
    found: list[JobStatus] = []
    for job_id, row, body in rows:
        if len(found) >= limit:
            break
        if before is not None and job_id >= before:
            continue
        status = table.status_in(row, body, data=data)
        if status is not None and (state is None or status.state == state.text) and _matches(status, search):
            found.append(status)
    return found


def _may_be(body: bytes, state: JobState | None) -> bool:
    """Return whether the job of a row may be shown in a state: a worker may have begun one that waits (states.py)."""
    if state is None:
        return True
    written = STATE.unpack(body)[2]
    return written == state if state in FINAL else written not in FINAL


def _matches(status: JobStatus, search: str | None) -> bool:
    return not search or any(search.casefold() in text.casefold() for text in _texts_of(status))


def _texts_of(status: JobStatus) -> Iterator[str]:
    """Yield the texts of a job in which is searched."""
    yield status.id
    yield status.name
    yield status.queue or ""
    yield status.key or ""
