"""The pools of a site, by name: one, several, or those that there are just now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias
from weakref import WeakSet

from procjobs.web.http import Problem

AnyPool: TypeAlias = Any
"""A `procjobs.Pool`, or the view of a running pool that the command line has: both read and control in the same way."""
PoolsGiven: TypeAlias = "AnyPool | Iterable[AnyPool] | Callable[[], AnyPool | Iterable[AnyPool]]"


class Pools:
    """Gives the pools of a site, in their order."""

    def __init__(self, given: PoolsGiven) -> None:
        self._find: Callable[[], Any] = given if callable(given) else lambda: given
        self._open: WeakSet[AnyPool] = WeakSet()

    def all(self) -> dict[str, AnyPool]:
        """Return the pools by name. One without a name is "pool"; of two with one name the second is "name-2"."""
        found = self._find()
        named: dict[str, AnyPool] = {}
        for pool in found if isinstance(found, Iterable) else [found]:
            base = name = pool.name or "pool"
            number = 1
            while name in named:
                number += 1
                name = f"{base}-{number}"
            named[name] = pool
        return named

    def is_open(self, pool: AnyPool) -> bool:
        """Whether a pool was read before: the first time, it may have to be connected or started, which blocks."""
        return pool in self._open

    def note_open(self, pool: AnyPool) -> None:
        """Take note that a pool was read."""
        self._open.add(pool)

    def pick(self, name: str) -> tuple[str, AnyPool]:
        """Return the name and the pool of that name, the only one for ""; raise Problem 404 or 400."""
        pools = self.all()
        if name in pools:
            return name, pools[name]
        if name:
            raise Problem(404, "No such pool", f"There is no pool called {name[:200]!r} here.")
        if len(pools) != 1:
            raise Problem(400, "Which pool?", f"There are {len(pools)} pools: say which one with pool=NAME.")
        return next(iter(pools.items()))
