"""Jobs by id: first in the shared table, and where it has none, at the supervisor or in the store.

1. A job that has a row costs nothing more than reading it.
2. An id that is some seconds old at most may be that of a job which the supervisor has not read yet. It is asked.
3. An id that nobody can have been given is asked of nobody.
4. A database is not read on the thread of an event loop.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Final

from procjobs.client.gathering import Gathering
from procjobs.clock import monotonic, wall
from procjobs.errors import ProcjobsError, SupervisorError, SupervisorLost, UnknownJob
from procjobs.shared.ids import from_text, made_at

if TYPE_CHECKING:
    from procjobs.client.link import Link
    from procjobs.shared.records import JobStatus

_YOUNG: Final = 10.0
"""Up to this age of an id the supervisor is asked for its job, if that has no row."""
_MAX_SKEW: Final = 3600.0
"""How far ahead of this host's clock that of another one may be, or this one before it was set back."""
_ASK_TIMEOUT: Final = 5.0
_LOOP_TIMEOUT: Final = 0.1
"""How long an event loop waits for the supervisor; other threads wait for `_ASK_TIMEOUT`."""
_OLDEST_KNOWN_FOR: Final = 60.0
_LATE_COMMIT: Final = 3600.0
"""How long after its id was made a job may come into the store: transactions of the application take their time."""
_MAX_STORES: Final = 16
_SUPERVISOR_PER_SECOND: Final = 500.0
_STORE_PER_SECOND: Final = 100.0
"""Questions in vain: one takes 0.2 ms of this process and the supervisor, and 0.6 ms of this process with a database."""


def in_event_loop() -> bool:
    """Return whether this thread runs a loop of asyncio now; a process that has not loaded that runs none."""
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None  # noqa: SLF001 - documented for such uses


def refuse_in_event_loop(text: str, name: str) -> None:
    """Raise UnknownJob for a job that the store may have, in a thread that must not wait; `name` is the method that may."""
    if in_event_loop():
        raise UnknownJob(
            f"job {text} is not known to the supervisor of this pool, and the store is not read in the thread of an event "
            f"loop: use `await pool.{name}(id)`"
        )


class StoreLookup:
    """Looks jobs up in a store, for all pools of this process that have it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._jobs: Gathering[JobStatus] = Gathering(per_second=_STORE_PER_SECOND)
        self._oldest, self._oldest_until = 0.0, 0.0

    def find(self, job_id: bytes, made: float) -> JobStatus | None:
        """Return a job, made at this Unix time, as the store knows it; None if it does not. Blocks."""
        if made < self._oldest and monotonic() < self._oldest_until:
            return None
        return self._jobs.ask(job_id, self._find_all)

    def ask_ahead(self, job_ids: list[bytes]) -> None:
        """Look for these jobs together, so that those that are not there are known not to be. Blocks."""
        self._jobs.ask_all(job_ids, self._find_all)

    def _find_all(self, job_ids: list[bytes]) -> dict[bytes, JobStatus]:
        from procjobs.store.reading import find_oldest, find_statuses  # with SQLAlchemy, which takes long to load

        found = {from_text(status.id): status for status in find_statuses(self._url, job_ids)}
        if len(found) < len(job_ids) and monotonic() >= self._oldest_until:
            self._oldest = min(find_oldest(self._url), wall() - _LATE_COMMIT)
            self._oldest_until = monotonic() + _OLDEST_KNOWN_FOR
        return found


_stores: dict[str, StoreLookup] = {}


def _lookup(url: str) -> StoreLookup:
    lookup = _stores.get(url)
    if lookup is None:
        while len(_stores) >= _MAX_STORES:
            _stores.pop(next(iter(_stores)), None)
        lookup = _stores.setdefault(url, StoreLookup(url))
    return lookup


class JobFinder:
    """Finds the jobs of one pool that were looked for in its table in vain."""

    def __init__(self, link: Link, *, data: bool = True) -> None:
        """With `data`, what jobs have reported as such is unpickled."""
        self._link = link
        self._data = data
        self._unread: Gathering[bool] = Gathering(per_second=_SUPERVISOR_PER_SECOND)

    def find(self, job_id: bytes, text: str) -> JobStatus:
        """Return the status of a job; raise as `Pool.status` does."""
        status = self.find_shown(job_id, text)
        if status is not None:
            return status
        age = _check_age(job_id, text)
        problem = None
        if age <= _YOUNG:
            try:
                if self._is_at_supervisor(job_id):
                    return self._link.read_present_table().status(job_id, text, data=self._data)
            except SupervisorError as error:
                problem = error
        return self._find_stored(job_id, text, age, problem)

    def find_all(self, wanted: list[tuple[bytes, str]]) -> list[JobStatus | Exception]:
        """Return for each (id, id as text) what `find` returns or raises; many cost little more than one."""
        with contextlib.suppress(ProcjobsError):  # told again, of each job by itself
            self._ask_ahead([job_id for job_id, text in wanted if self.find_shown(job_id, text) is None])
        return [self._try_find(job_id, text) for job_id, text in wanted]

    def _ask_ahead(self, job_ids: list[bytes]) -> None:
        if len(job_ids) > 1:
            possible = [job_id for job_id in job_ids if made_at(job_id) is not None]
            with contextlib.suppress(SupervisorError):
                self._unread.ask_all(filter(is_young, possible), self._ask_for)
            store = self._store()
            if store is not None:
                _lookup(store).ask_ahead(possible)

    def _try_find(self, job_id: bytes, text: str) -> JobStatus | Exception:
        try:
            return self.find(job_id, text)
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            return error

    def find_shown(self, job_id: bytes, text: str) -> JobStatus | None:
        """Return the status of a job that the table of the present supervisor has, None if it has not."""
        table = self._link.renew_table(self._link.read_table())
        try:
            return table.status(job_id, text, data=self._data)
        except UnknownJob:
            return None

    def find_stored(self, job_id: bytes, text: str) -> JobStatus:
        """Return the status of a job that the table does not have; the supervisor is not asked. Raise as `Pool.status`."""
        return self._find_stored(job_id, text, _check_age(job_id, text), None)

    def _find_stored(self, job_id: bytes, text: str, age: float, problem: SupervisorError | None) -> JobStatus:
        """Look in the store; `problem` is why the supervisor could not be asked, and the cause of the UnknownJob then."""
        why = f": its supervisor may not have received it yet, and could not be asked: {problem}" if problem else ""
        table = self._link.read_table()
        store = self._store()
        if store is not None:
            refuse_in_event_loop(text, "astatus")
            status = _lookup(store).find(job_id, wall() - age)
            if status is not None:
                return status
            raise UnknownJob(f"job {text} is not known to this pool, nor to its store{why}") from problem
        if problem:
            raise UnknownJob(f"job {text} is not known to this pool{why}") from problem
        return table.status(job_id, text, data=self._data)

    def _store(self) -> str | None:
        """Return the URL of the pool's store, None if it has none.

        A supervisor says in its table whether there is one soon after it has begun, and to its clients at once.
        """
        connection = self._link.connection
        is_said = connection is not None and connection.welcome["settings"].get("store") is not None
        if not is_said and self._link.read_table().store() is None:
            return None
        url: str | None = self._link.connect().welcome["settings"].get("store")
        return url

    def _is_at_supervisor(self, job_id: bytes) -> bool:
        if not in_event_loop():
            return bool(self._unread.ask(job_id, self._ask_for))
        return not self._unread.is_missing(job_id) and bool(self._ask_for([job_id]))

    def _ask_for(self, job_ids: list[bytes]) -> dict[bytes, bool]:
        ids = [job_id.hex() for job_id in job_ids]
        timeout = _LOOP_TIMEOUT if in_event_loop() else _ASK_TIMEOUT
        connection = self._link.connect()
        try:
            reply = connection.request("known", timeout=timeout, ids=ids)
        except SupervisorLost:
            if not connection.lost or in_event_loop():  # it does not answer; or a loop would wait for its successor
                raise
            reply = self._link.connect().request("known", timeout=timeout, ids=ids)  # its successor
        return {bytes.fromhex(text): True for text in reply["known"]}


def is_young(job_id: bytes) -> bool:
    """Return whether the supervisor may not have read the job yet."""
    made = made_at(job_id)
    return made is not None and wall() - made <= _YOUNG


def _check_age(job_id: bytes, text: str) -> float:
    """Return how old an id is in seconds; raise UnknownJob for one that no job can have."""
    made = made_at(job_id)
    if made is None:
        raise UnknownJob(
            f"job {text} is not known to this pool: no job ever had such an id, which is no UUID of version 7"
        )
    age = wall() - made
    if age < -_MAX_SKEW:
        raise UnknownJob(f"job {text} is not known to this pool: the id is of a time to come")
    return age
