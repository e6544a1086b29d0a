"""Many jobs at a glance, for programs that show them: web pages, dashboards.

1. A glance reads shared memory, and unpickles nothing: what a job has reported as `data` is the application's.
2. The table of a supervisor that was killed shows jobs that run no more. So it answers for jobs that have ended alone.
3. Jobs that a glance does not show are looked for together, at the supervisor of now and in the store. A supervisor that
   was killed gets its successor first, as with every call of the pool; one that was stopped does not.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING

from procjobs.client.awaiting import AwaitedFinder, in_thread
from procjobs.client.finding import JobFinder
from procjobs.errors import PoolNotRunning, SupervisorError, SupervisorLost, UnknownJob
from procjobs.host import rundir
from procjobs.shared.ids import parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from procjobs.client.link import Link
    from procjobs.shared.ids import JobId
    from procjobs.shared.records import JobStatus


class Glances:
    """Reads many jobs of one pool."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._finder = JobFinder(link, data=False)
        self._awaited = AwaitedFinder(self._finder)

    def read(self, job_ids: Iterable[JobId], known: Mapping[str, int]) -> dict[str, JobStatus | None]:
        """Return what `Monitor.glance` returns."""
        table = self._link.read_present_table()
        is_alone = self._is_killed()
        found: dict[str, JobStatus | None] = {}
        for job_id in job_ids:
            try:
                raw, text = parse(job_id)
                status = table.status(raw, text, data=False)
            except UnknownJob:
                status = None
            found[str(job_id)] = None if status is None or (is_alone and not status.done) else status
        return _changed(found, known)

    def find(self, job_ids: Iterable[JobId], known: Mapping[str, int]) -> dict[str, JobStatus | None]:
        """Return what `Monitor.look_up` returns."""
        wanted = list(job_ids)
        found = self.read(wanted, {})
        missing = _ids_of([job_id for job_id in wanted if found[str(job_id)] is None])
        if missing:
            self._revive()
            outcomes = self._finder.find_all(list(missing.values()))
            found.update(zip(missing, map(_known, outcomes), strict=True))
        return _changed(found, known)

    def find_one(self, job_id: bytes, text: str) -> JobStatus:
        """Return what `Monitor.status` returns, or raise what it raises; the data of its last report is None."""
        try:
            return self._link.read_last_table().status(job_id, text, data=False)
        except UnknownJob:
            return self._finder.find(job_id, text)

    async def afind(self, job_ids: Iterable[JobId], known: Mapping[str, int]) -> dict[str, JobStatus | None]:
        """Return what `Monitor.aglance` returns."""
        import asyncio  # see procjobs.client.job

        wanted = list(job_ids)
        if self._link.table is None:  # not connected yet, which takes its time
            return await in_thread(partial(self.find, wanted, known))
        found = self.read(wanted, {})
        missing = _ids_of([job_id for job_id in wanted if found[str(job_id)] is None])
        if missing:
            if self._is_killed():
                await in_thread(self._revive)
            outcomes = await asyncio.gather(*(self._awaited.find(*one) for one in missing.values()), return_exceptions=True)
            found.update(zip(missing, map(_known, outcomes), strict=True))
        return _changed(found, known)

    def _is_killed(self) -> bool:
        """Return whether the supervisor was killed: one that was stopped has removed its files, the lock last."""
        lock = self._link.directory.lock
        return not rundir.is_held(lock) and os.path.exists(lock)

    def _revive(self) -> None:
        if self._is_killed():
            with contextlib.suppress(PoolNotRunning, SupervisorLost):  # where others start it: what is left is read
                self._link.persist(lambda connection: connection.request("known", ids=[]))  # finds a lost connection


def _ids_of(job_ids: list[JobId]) -> dict[str, tuple[bytes, str]]:
    """Return the bytes and the usual form of those that are ids, by what was given."""
    ids = {}
    for job_id in job_ids:
        with contextlib.suppress(UnknownJob):
            ids[str(job_id)] = parse(job_id)
    return ids


def _known(outcome: JobStatus | BaseException) -> JobStatus | None:
    """Return the status that was found, None for a job that nobody knows; raise why nobody can tell, if so."""
    if isinstance(outcome, UnknownJob) and isinstance(outcome.__cause__, SupervisorError):
        raise outcome.__cause__
    if isinstance(outcome, UnknownJob):
        return None
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _changed(found: dict[str, JobStatus | None], known: Mapping[str, int]) -> dict[str, JobStatus | None]:
    """Return what was found without the jobs whose version is known already; the store tells no versions."""

    def is_new(job_id: str, status: JobStatus | None) -> bool:
        return status is None or not status.version or known.get(job_id) != status.version

    return {job_id: status for job_id, status in found.items() if is_new(job_id, status)} if known else found
