"""Questions about single jobs, put together into one for all threads that ask at the same time.

Ids come from URLs, and whoever likes can guess them. However many are asked for, the questions that turn out to be about no
job are few: they are paced, and those that come meanwhile go together with the next one. So guesses wait, one for all, and
neither the supervisor nor the database nor this process is kept busy by them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Generic, TypeAlias, TypeVar

from procjobs.client.connection.interruptible import News
from procjobs.clock import monotonic

T = TypeVar("T")

AskFor: TypeAlias = Callable[[list[bytes]], Mapping[bytes, T]]
"""Returns what there is to know of the jobs with these ids, of those that are known."""

_BURST: Final = 100.0
"""How many questions in vain are not paced, after a while without any."""
_MAX_TOGETHER: Final = 500
_LEASE: Final = 0.5
"""How long the others wait for the thread that asks, before one of them asks as well: that one may have been interrupted."""
_MISSING_FOR: Final = 1.0
"""How long it is remembered that a job is not known."""
_MAX_MISSING: Final = 10_000


class _Wanted(Generic[T]):
    """A job that a thread asks for. Its first outcome is an answer (None: there is no such job), or an error."""

    __slots__ = ("job_id", "outcomes")

    def __init__(self, job_id: bytes) -> None:
        self.job_id = job_id
        self.outcomes: list[T | Exception | None] = []


class Gathering(Generic[T]):
    """Asks for jobs, one question at a time. No lock is held: two threads that both ask do no harm."""

    def __init__(self, *, per_second: float) -> None:
        """`per_second` questions in vain are asked at the most, each about as many jobs as threads want to know of.
        """
        self._per_second = per_second
        self._waiting: deque[_Wanted[T]] = deque()
        self._missing: dict[bytes, float] = {}
        self._busy_until = 0.0
        self._allowance, self._allowed_at = _BURST, 0.0
        self._news = News()

    def is_missing(self, job_id: bytes) -> bool:
        """Return whether this job was asked for in vain a moment ago."""
        return self._missing.get(job_id, 0.0) > monotonic()

    def ask(self, job_id: bytes, ask_for: AskFor[T]) -> T | None:
        """Return what there is to know of a job, None if it is not known. Blocks; raise as `ask_for` does.

        All callers pass the same `ask_for`. It is not kept: its owner has this object.
        """
        return self.ask_all([job_id], ask_for)[0]

    def ask_all(self, job_ids: Iterable[bytes], ask_for: AskFor[T]) -> list[T | None]:
        """Return what `ask` returns of each of these jobs, all asked for together."""
        wanted: list[_Wanted[T]] = [_Wanted(job_id) for job_id in job_ids]
        for one in wanted:
            if self.is_missing(one.job_id):
                one.outcomes.append(None)
            else:
                self._waiting.append(one)
        return [self._outcome(one, ask_for) for one in wanted]

    def _outcome(self, wanted: _Wanted[T], ask_for: AskFor[T]) -> T | None:
        while not wanted.outcomes:
            rest = self._busy_until - monotonic()
            if rest > 0:
                self._news.wait_for(lambda: bool(wanted.outcomes) or self._busy_until <= monotonic(), rest)
            else:
                self._ask_for_all(wanted, ask_for)
        outcome = wanted.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _ask_for_all(self, own: _Wanted[T], ask_for: AskFor[T]) -> None:
        """Ask for everything that is wanted now, by whatever thread."""
        self._busy_until = monotonic() + _LEASE
        try:
            self._wait_for_turn()
            wanted = {id(own): own}
            while self._waiting and len(wanted) < _MAX_TOGETHER:
                other = self._waiting.popleft()
                wanted[id(other)] = other
            self._answer(list(wanted.values()), ask_for)
        finally:
            self._busy_until = 0.0
            self._news.spread()

    def _answer(self, wanted: list[_Wanted[T]], ask_for: AskFor[T]) -> None:
        try:
            found = ask_for(list({one.job_id for one in wanted}))
        except Exception as error:  # noqa: BLE001 - whoever asked along gets the same error
            for one in wanted:
                one.outcomes.append(error)
            return
        missing = {one.job_id for one in wanted if one.job_id not in found}
        if missing:
            self._note_missing(missing)
        for one in wanted:
            one.outcomes.append(found.get(one.job_id))

    def _note_missing(self, job_ids: set[bytes]) -> None:
        self._allowance -= 1
        if len(self._missing) + len(job_ids) > _MAX_MISSING:
            self._missing = {}
        self._missing.update(dict.fromkeys(job_ids, monotonic() + _MISSING_FOR))

    def _wait_for_turn(self) -> None:
        now = monotonic()
        self._allowance = min(self._allowance + (now - self._allowed_at) * self._per_second, _BURST)
        self._allowed_at = now
        if self._allowance < 1:
            self._news.wait_for(lambda: False, (1 - self._allowance) / self._per_second)
