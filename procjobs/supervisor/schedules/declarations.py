"""Which code declares which schedules, and which of these no present code declares any more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from procjobs.clock import NEVER

if TYPE_CHECKING:
    from procjobs.dispatch.model import Generation

_RETURN_TIMEOUT: Final = 10.0
"""How long a pool that has just started waits for the processes that declare what its store has as declared."""


class Declarations:
    """The names that each generation of code has declared.

    Processes of one generation may declare different ones, and all of these count. A schedule is retired when newer code has
    declared others, and the generations that have declared it have no clients any more. The newest one always counts.

    Those that the store has from an earlier life of the pool are expected to be declared again, and are not retired before
    that has had its time.
    """

    def __init__(self) -> None:
        self._names: dict[Generation, set[str]] = {}
        self._newest: Generation | None = None
        self._seen: tuple[object, ...] = ()
        self._expected: set[str] = set()
        self.expected_until = NEVER

    def expect(self, names: Iterable[str], now: float) -> None:
        """Note schedules that were declared in an earlier life of the pool."""
        self._expected = set(names)
        self.expected_until = now + _RETURN_TIMEOUT if self._expected else NEVER

    def add(self, generation: Generation, name: str) -> None:
        """Note that a generation's code has a schedule."""
        self._names.setdefault(generation, set()).add(name)
        self._expected.discard(name)
        self._seen = ()

    def set(self, generation: Generation, names: Iterable[str]) -> None:
        """Note all that a process of a generation declares."""
        self._names.setdefault(generation, set()).update(names)
        self._seen = ()
        if self._newest is None or generation.number > self._newest.number:
            self._newest = generation

    def have_changed(self, now: float) -> bool:
        """Return whether a look at `retired` is due: other code than before declares schedules, or none is expected now.

        It never is before the first `set`.
        """
        if now >= self.expected_until:
            self.expected_until = NEVER
            self._expected.clear()
            self._seen = ()
        return self._newest is not None and self._seen != self._look()

    def _look(self) -> tuple[object, ...]:
        return tuple((bool(one.newest().clients), one.ready, one.problem) for one in self._names)

    def retired(self, declared: Iterable[str]) -> list[str]:
        """Return those of these schedules that no present code declares."""
        for generation in [one for one in self._names if one is not self._newest and not one.newest().clients]:
            del self._names[generation]
        self._seen = self._look()
        if any(not (generation.ready or generation.problem) for generation in self._names):
            return []  # its preload may declare more
        present = set().union(*self._names.values())
        return [name for name in declared if name not in present and name not in self._expected]
