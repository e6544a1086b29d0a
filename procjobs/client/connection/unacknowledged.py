"""Submissions that no supervisor has acknowledged: what is kept of them, and which may go to a successor.

1. A submission is kept, its descriptor with it, from before its frame is sent until it is acknowledged.
2. When the connection is lost, its receiver thread alone decides about them, once it has read all that had arrived.
3. A job goes to the successor only if it is certain that no worker has begun it, and that none will: the supervisor has
   ended, and either the job has no row in its table, or its workers have ended too and none has marked that it began.
   What the kill has left torn, what cannot be known, and what has not ended after a second counts as begun.
4. A handle is entered with the new connection before it leaves the old one, so there is always a receiver that will
   settle it. If the new connection is lost as well, all of this happens again there, and not on top of the first time.
5. The pool's lock is taken before a connection's, never while one is held.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Final

from procjobs.clock import monotonic
from procjobs.errors import JobExpired, SupervisorLost
from procjobs.host import process
from procjobs.shared.wire import HEADER, SUBMIT

if TYPE_CHECKING:
    from procjobs.client.connection.kinds import Registered
    from procjobs.client.job import Job
    from procjobs.shared.table.post_mortem import PostMortemTable

Submission = tuple["Job[Any]", "Registered", bytes, int | None, float]
"""(handle, kind, whole frame, descriptor kept for it, when it was sent). A plain tuple: `submit` makes one for each job."""

_PATIENCE: Final = 1.0
"""How long the end of a supervisor and its workers is waited for. The kernel kills them together; it takes milliseconds."""
_MAX_HELD: Final = 256
"""The most descriptors that this process keeps for this; a job beyond them is not sent again."""
_AT_ONCE: Final = 1e-6

_held: set[int] = set()


def hold(fd: int) -> bool:
    """Take over a descriptor until it is let go of; return False if there are too many already."""
    if len(_held) >= _MAX_HELD:
        return False
    _held.add(fd)
    return True


def let_go(fd: int) -> None:
    """Close a descriptor, held or not."""
    _held.discard(fd)  # before it is closed: the number may be another's a moment later, and a fork closes what is held
    os.close(fd)


def _after_fork() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_after_fork)


class Unacknowledged(deque[Submission]):
    """The submissions of one connection, in order.

    Who sends appends, under the connection's lock; the receiver thread takes from the other end, and has it alone once the
    connection is lost.
    """

    def job_ids(self) -> set[bytes]:
        """Return the ids of the jobs."""
        return {job._job_id for job, *_ in self}  # noqa: SLF001 - the property makes text of it

    def drop(self, count: int) -> None:
        """Forget the oldest; the supervisor has them."""
        for _ in range(min(count, len(self))):
            fd = self.popleft()[3]
            if fd is not None:
                let_go(fd)

    def keep(self, job_ids: AbstractSet[bytes]) -> None:
        """Forget all but these."""
        for _ in range(len(self)):
            submission = self[0]
            if submission[0]._job_id in job_ids:  # noqa: SLF001 - see job_ids
                self.rotate(-1)
            else:
                self.drop(1)

    def resendable(self, oldest: float) -> Iterator[bytes]:
        """Yield the ids of those that are still there as a whole and were sent after `oldest`."""
        for job, _, data, fd, sent_at in self:
            is_whole = fd is not None or (data and not HEADER.unpack_from(data)[2])
            if is_whole and sent_at > oldest:
                yield job._job_id  # noqa: SLF001 - see job_ids

    def end_expired(self) -> None:
        """End the jobs that are not to be started any more."""
        now = monotonic()
        expired = [s[0] for s in self if 0 < SUBMIT.unpack_from(s[2], HEADER.size)[3] <= now - s[4]]
        self.keep(self.job_ids() - {job._job_id for job in expired})  # noqa: SLF001 - see job_ids
        for job in expired:
            message = f"job {job.id} {job.name} had not been started when its `expires` came"
            job.abandon(JobExpired(message, job_id=job.id))


def renew(data: bytes, number: int, elapsed: float) -> bytes:
    """Return the frame of a submission for another connection: the kind's number there, the times less what has passed."""
    job_id, _, delay, expires, key_length = SUBMIT.unpack_from(data, HEADER.size)
    rest = max(expires - elapsed, _AT_ONCE) if expires else 0.0
    head = SUBMIT.pack(job_id, number, max(delay - elapsed, 0.0), rest, key_length)
    return data[: HEADER.size] + head + data[HEADER.size + SUBMIT.size :]


def describe_loss(
    job: Job[Any], supervisor_pid: int, problem: Exception | None, *, has_store: bool = False
) -> SupervisorLost:
    """Return what the handle of a lost job raises; `problem` is why it could not be sent to a successor."""
    who = f"the supervisor (pid {supervisor_pid}) went away before"
    if problem is None:
        return SupervisorLost(
            f"{who} job {job.id} {job.name} was answered; whether it ran is not known. Submit it again if that does no harm"
        )
    what, then = f"it took job {job.id} {job.name}, which could not be sent to", "The job has not run"
    if has_store:
        what = f"job {job.id} {job.name} was answered, about which nothing is heard from"
        then = f"If the store has it, it runs when the pool is started again, and pool.job({job.id!r}) has its answer"
    error = SupervisorLost(f"{who} {what} a successor: {problem}. {then}")
    error.__cause__ = problem
    return error


def find_unbegun(job_ids: AbstractSet[bytes], table: PostMortemTable) -> set[bytes]:
    """Return those jobs that no worker of a lost supervisor has begun, or ever will. Blocks for a second at most."""
    deadline = monotonic() + _PATIENCE
    if not job_ids or not _have_ended([table.supervisor_pid], deadline):
        return set()
    taken = {job_id for job_id in job_ids if table.look_back(job_id).has_row}
    begun = taken
    if taken and _have_ended(table.worker_pids(), deadline):
        begun = {job_id for job_id in taken if table.look_back(job_id).may_have_begun}
    return set(job_ids) - begun


def _have_ended(pids: Iterable[int], deadline: float) -> bool:
    """Wait for the end of these processes; return whether it is certain that all have ended. A pid of 0 is not known."""
    for pid in pids:
        try:
            pidfd = process.try_open_pidfd(pid)
        except OSError:  # EINVAL for 0; EMFILE
            return False
        if pidfd is None:
            continue
        has_ended = process.wait_for_pidfd(pidfd, deadline - monotonic())
        os.close(pidfd)
        if not has_ended:
            return False
    return True
