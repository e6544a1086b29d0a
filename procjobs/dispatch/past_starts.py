"""The starts of keys that have no job any more, which a rate still counts. Pure.

A key with one start takes about 100 bytes beside its own text. Keys are kept in slices of time, and a slice is dropped when
the rate counts none of its starts any more: at the latest 17/16 of the rate's period after the key's last job has ended.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from procjobs.clock import NEVER

_SLICES: Final = 16
"""How many slices a period has: each may cost a lookup when a key comes back."""
_MAX_FORGOTTEN: Final = 2000
"""How many keys are dropped in one turn, which takes 0.2 ms."""


class _Slice(NamedTuple):
    """Keys whose last start was before `end`, with all their starts, packed."""

    end: float
    starts: dict[bytes, bytes]


class PastStarts:
    """The past starts of the keys of one rate with this period, in seconds."""

    def __init__(self, period: float) -> None:
        self._period = period
        self._slices: deque[_Slice] = deque()

    def __len__(self) -> int:
        return sum(len(part.starts) for part in self._slices)

    def keep(self, key: bytes, starts: Iterable[float]) -> None:
        """Keep the starts of a key, the oldest first; there is at least one, and the key has none here."""
        packed = array("d", starts)
        if not self._slices or packed[-1] >= self._slices[-1].end:
            self._slices.append(_Slice(packed[-1] + self._period / _SLICES, {}))
        self._slices[-1].starts[key] = packed.tobytes()

    def take(self, key: bytes) -> array[float]:
        """Take out the starts of a key, none if it has none here."""
        for part in self._slices:
            packed = part.starts.pop(key, None)
            if packed is not None:
                return array("d", packed)
        return array("d")

    def next_time(self) -> float:
        """Return when there is something to forget."""
        return self._slices[0].end + self._period if self._slices else NEVER

    def advance(self, now: float) -> None:
        """Forget some of the keys whose time is over."""
        if self.next_time() > now:
            return
        oldest = self._slices[0].starts
        for _ in range(min(len(oldest), _MAX_FORGOTTEN)):
            oldest.popitem()
        if not oldest:
            self._slices.popleft()
