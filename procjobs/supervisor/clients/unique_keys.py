"""Jobs that are the only one of their key: which job has which key, as far as this supervisor knows.

With a store, a key that nobody has here may be that of a job which waits there alone. So the transaction that is to store a
submission decides, and until then the submissions with the same key that come after it wait for that decision.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from procjobs.clock import wall
from procjobs.shared.states import FINAL

if TYPE_CHECKING:
    from procjobs.supervisor.job import SupervisedJob, Watcher
    from procjobs.supervisor.registry import Registry

_MIN_SWEPT: Final = 1000
"""From this number of keys on, the keys that nobody holds any more are looked for and forgotten."""


class UniqueKeys:
    """The holders of keys: each holds its key until it has ended, and until a time (Unix time)."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._holders: dict[bytes, tuple[bytes, float]] = {}
        self._undecided: dict[bytes, list[tuple[Watcher, bytes]]] = {}
        self._sweep_at = _MIN_SWEPT

    def __len__(self) -> int:
        return len(self._holders)

    def holder(self, key: bytes) -> bytes | None:
        """Return the id of the job that holds a key; None if no job here does."""
        held = self._holders.get(key)
        if held is None:
            return None
        if self._holds(held, wall()):
            return held[0]
        del self._holders[key]
        return None

    def _holds(self, held: tuple[bytes, float], moment: float) -> bool:
        job_id, until = held
        job = self._registry.jobs.get(job_id)
        return (job is not None and job.state not in FINAL) or until > moment

    def _sweep(self) -> None:
        """Forget the keys that nobody holds any more. So rarely that it is no part of the cost of a key."""
        moment = wall()
        self._holders = {key: held for key, held in self._holders.items() if self._holds(held, moment)}
        self._sweep_at = max(_MIN_SWEPT, 2 * len(self._holders))

    def give(self, job: SupervisedJob, seconds: float, now: float) -> float:
        """Give a job its key, for these seconds at least; return until when (Unix time).

        Without a time of its own, it holds the key until it has ended, also where the clock is set back meanwhile.
        """
        if len(self._holders) >= self._sweep_at:
            self._sweep()
        until = now + seconds if seconds else 0.0
        self._holders[job.key] = job.id, until
        return until

    def until(self, job: SupervisedJob) -> float | None:
        """Return until when a job holds its key (Unix time; 0.0: until it has ended), None if it does not."""
        job_id, until = self._holders.get(job.key, (b"", 0.0)) if job.key else (b"", 0.0)
        return until if job_id == job.id else None

    def restore(self, job: SupervisedJob, until: float) -> None:
        """Give a job the key that it held at another supervisor."""
        self._holders[job.key] = job.id, until

    def wait_for_decision(self, holder: bytes, client: Watcher, job_id: bytes) -> None:
        """Let a submission wait until the store has decided whether the holder of its key is one."""
        self._undecided.setdefault(holder, []).append((client, job_id))

    def decide(self, job: SupervisedJob, holder: bytes) -> Iterator[tuple[Watcher, bytes]]:
        """Note that `holder` has the key of a job; yield (client, job id) of the submissions that have waited for that."""
        if holder != job.id and self._holders.get(job.key, (b"",))[0] == job.id:
            del self._holders[job.key]
        yield from self._undecided.pop(job.id, ())
