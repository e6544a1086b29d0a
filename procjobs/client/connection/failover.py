"""A supervisor is lost: which of its jobs its successor gets, and how the others end.

1. The receiver thread of the lost connection alone decides, once it has read all that had arrived.
2. A job goes to the successor only if it is certain that no worker has begun it, and that none will: the supervisor has
   ended, and either the job has no row in its table, or its workers have ended too and none has marked that it began.
   A row that the kill has torn, a fact that cannot be known, and a process that has not ended after a second count as begun.
3. With a store, all that was not acknowledged goes to the successor: a job that the store does not have has not run. The
   successor is asked for the answers of the others, and for the end of those that were cancelled. Where the supervisor has
   handed its jobs over, it is the same: what it has acknowledged its successor has, and nothing else was taken.
4. A handle is entered with the new connection before it leaves the old one, so there is always a receiver that will
   settle it. If the new connection is lost as well, all of this happens again there, and not on top of the first time.
5. The pool's lock is taken before a connection's, never while one is held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from procjobs.client.connection.handle import Handle
from procjobs.client.connection.unacknowledged import Unacknowledged
from procjobs.clock import monotonic
from procjobs.errors import PoolClosed, ProcjobsError, SupervisorLost
from procjobs.host import process

if TYPE_CHECKING:
    from procjobs.client.connection.entries import Entries
    from procjobs.client.connection.state import Lifecycle
    from procjobs.shared.table.post_mortem import PostMortemTable

OnLost: TypeAlias = Callable[[Unacknowledged, deque[Handle]], None]
"""Lets a successor have submissions, and asks it for the answers of jobs that are kept in the store.

What the successor has got is taken out of both. If it was lost in turn before that, both may be as they were. Raises
whatever keeps this process from a successor. It is called once more, with both empty, when everything is settled: a pool
that has schedules needs a successor then, whether jobs are awaited or not.
"""

_END_TIMEOUT: Final = 1.0
"""How long the end of a supervisor and its workers is waited for. The kernel kills them together; it takes milliseconds."""


class NoTable:
    """Stands for a table that is not mapped here: no job is known to be unbegun."""

    supervisor_pid: Final = 0
    is_whole: Final = False

    def look_back(self, job_id: bytes) -> NoReturn:
        """Fail: nobody asks about a job of a supervisor that is not known to have ended."""
        raise LookupError(job_id)

    def worker_pids(self) -> list[int]:
        """Return the pids of the workers that may run jobs."""
        return []


NO_TABLE: Final = NoTable()


class Failover:
    """The decisions about the jobs of one lost connection, for its receiver thread."""

    def __init__(
        self,
        route: object,
        entries: Entries,
        welcome: dict[str, Any],
        table: PostMortemTable | NoTable,
        lifecycle: Lifecycle,
        failure: Exception | None = None,
    ) -> None:
        """`failure` is what has kept this process from reading on; None where the supervisor has gone."""
        self._route = route
        self._failure = failure
        self._handles = entries.handles
        self._waiting = entries.unacknowledged
        self._supervisor_pid: int = welcome["pid"]
        self._result_ttl: float = welcome["settings"]["result_ttl"]
        self._has_store = welcome["settings"].get("store") is not None
        self._are_handed_over = entries.are_handed_over
        self._table = table
        self._lifecycle = lifecycle

    def move_to_successor(self, on_lost: OnLost) -> Exception | None:
        """Let the successor have the jobs that are its due; return the reason why it could not have all of them."""
        are_kept = self._has_store or self._are_handed_over
        return self._move_kept(on_lost) if are_kept else self._move_unbegun(on_lost)

    def _move_unbegun(self, on_lost: OnLost) -> Exception | None:
        waiting = self._waiting
        oldest = monotonic() - self._result_ttl  # an older one may have ended and lost its row
        waiting.keep({job_id for job_id in waiting.resendable(oldest) if self._is_wanted(job_id)})
        self._abandon_others(None)
        waiting.keep(find_unbegun(waiting.job_ids(), self._table))
        self._abandon_others(None)
        try:
            while waiting:
                on_lost(waiting, deque())
        except Exception as error:  # noqa: BLE001 - whatever keeps this thread from a successor, the handles say it
            return error
        return None

    def _move_kept(self, on_lost: OnLost) -> Exception | None:
        waiting = self._waiting
        waiting.keep({job_id for job_id in waiting.resendable(0.0) if self._is_wanted(job_id)})
        sent_again = waiting.job_ids()
        acknowledged = [handle for job_id, handle in list(self._handles.items()) if job_id not in sent_again]
        kept = deque(handle for handle in acknowledged if handle.is_awaited_from(self._route))
        try:
            while waiting or kept:
                on_lost(waiting, kept)
        except Exception as error:  # noqa: BLE001 - as in _move_unbegun
            return error
        for handle in acknowledged:
            self._handles.pop(handle.raw_id, None)
        return None

    def abandon_all(self, problem: Exception | None) -> None:
        """End everything that is still awaited; `problem` is the reason why a successor could not have it."""
        left = self._waiting.job_ids()
        self._waiting.keep(set())
        self._abandon_others(problem, left)

    def _is_wanted(self, job_id: bytes) -> bool:
        handle = self._handles.get(job_id)
        return handle is not None and not handle.done()

    def _abandon_others(self, problem: Exception | None, left: AbstractSet[bytes] = frozenset()) -> None:
        """End every job that does not wait for a successor. Those `left` were to be sent to one that did not take them."""
        waiting = self._waiting.job_ids()
        for job_id in [job_id for job_id in list(self._handles) if job_id not in waiting]:
            handle = self._handles.pop(job_id, None)
            if handle is None or not (job_id in left or handle.is_awaited_from(self._route)):
                continue
            if self._lifecycle.is_closing:
                handle.abandon(PoolClosed(f"the pool was shut down while job {handle.id} was awaited"))
            else:
                handle.abandon(self._describe_loss(handle, problem))

    def _describe_loss(self, handle: Handle, problem: Exception | None) -> ProcjobsError:
        if self._lifecycle.is_stop_asked:
            return self._describe_stop(handle)
        supervisor = f"the supervisor (pid {self._supervisor_pid})"
        who = f"{supervisor} went away before"
        if self._failure is not None:
            why = f"{type(self._failure).__name__}: {self._failure}"
            who = f"the connection to {supervisor} was given up, because this process could not read on ({why}), before"
        job = f"job {handle.id} {handle.name}"
        if problem is None:
            lost = SupervisorLost(
                f"{who} {job} was answered; whether it ran is not known. Submit it again if that does no harm"
            )
            lost.__cause__ = self._failure
            return lost
        if self._has_store:
            text = (
                f"{who} {job} was answered, about which nothing is heard from a successor: {problem}. If the store has it, "
                f"it runs when the pool is started again, and pool.job({handle.id!r}) has its answer"
            )
        elif self._are_handed_over:
            text = (
                f"the supervisor (pid {self._supervisor_pid}) has handed job {handle.id} {handle.name} over, and nothing is "
                f"heard from its successor: {problem}. It runs when the pool is started again"
            )
        else:
            text = f"{who} it took {job}, which could not be sent to a successor: {problem}. The job has not run"
        error = SupervisorLost(text)
        error.__cause__ = problem
        return error

    def _describe_stop(self, handle: Handle) -> PoolClosed:
        text = f"the pool was stopped before job {handle.id} {handle.name} was answered; whether it ran is not known"
        if self._has_store:
            text += f". If the store has it, pool.job({handle.id!r}) has its answer when the pool is started again"
        return PoolClosed(text)


def find_unbegun(job_ids: AbstractSet[bytes], table: PostMortemTable | NoTable) -> set[bytes]:
    """Return those jobs that no worker of a lost supervisor has begun, or ever will. Blocks for a second at most."""
    deadline = monotonic() + _END_TIMEOUT
    if not job_ids or not _have_ended([table.supervisor_pid], deadline) or not table.is_whole:
        return set()
    taken = {job_id for job_id in job_ids if table.look_back(job_id).has_row}
    begun = taken
    if taken and _have_ended(table.worker_pids(), deadline):
        begun = {job_id for job_id in taken if table.look_back(job_id).may_have_begun}
    return set(job_ids) - begun


def _have_ended(pids: Iterable[int], deadline: float) -> bool:
    """Wait for the end of these processes; return whether it is certain that all have ended. A pid of 0 is not known."""
    for pid in pids:
        if pid <= 0:
            return False
        watched = process.watch(pid)
        if watched is None:
            continue
        has_ended = watched.wait(max(deadline - monotonic(), 0.0))
        watched.close()
        if not has_ended:
            return False
    return True
