"""Listing the jobs of a large pool without filling a core: reading a full table takes a second.

1. The same question, asked again at once, gets the same answer: polling costs one part in `_SAME_SHARE` of a core.
2. All questions together may take one part in `_SHARE`, and a few seconds at once; a question beyond that is refused with
   the time after which it will be answered.
3. One thread reads at a time: the others wait for it, and find its answer if their question is the same.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final

from procjobs.web.http import Problem

_SAME_SHARE: Final = 20
_SHARE: Final = 4
_AT_ONCE: Final = 4.0
"""Seconds of reading that questions may take at once, before they are limited to their share."""
_MAX_ANSWERS: Final = 32
_MAX_AGE: Final = 30.0


class Scans:
    """What was read of one pool, for a short time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: OrderedDict[Hashable, tuple[float, float, Any]] = OrderedDict()
        self._credit = _AT_ONCE
        self._counted_at = clock()

    def read(self, question: Hashable, scan: Callable[[], Any]) -> Any:
        """Return the answer to a question, which `scan` reads if it must; raise a Problem (503) if that is too much.

        What `scan` raises is raised here, and nothing of it is kept.
        """
        with self._lock:
            began = self._clock()
            known = self._answers.get(question)
            if known is not None and known[0] <= began < known[1]:  # the clock may have been set back
                return known[2]
            self._check_credit(began)
            try:
                answer = scan()
            finally:
                took = max(self._clock() - began, 0.0)
                self._credit -= took
            self._keep(question, (began, began + took + min(took * _SAME_SHARE, _MAX_AGE), answer))
            return answer

    def forget(self) -> None:
        """Read anew what is asked from now on: something was changed."""
        with self._lock:
            self._answers.clear()

    def _check_credit(self, now: float) -> None:
        self._credit = min(self._credit + max(now - self._counted_at, 0.0) / _SHARE, _AT_ONCE)
        self._counted_at = now
        if self._credit < 0:
            wait = math.ceil(-self._credit * _SHARE) or 1
            detail = f"The jobs of this pool are many, and reading them has taken much time just now. Ask again in {wait} s."
            raise Problem(503, "Too many searches", detail, (("Retry-After", str(wait)),))

    def _keep(self, question: Hashable, answer: tuple[float, float, Any]) -> None:
        self._answers[question] = answer
        self._answers.move_to_end(question)
        while len(self._answers) > _MAX_ANSWERS:
            self._answers.popitem(last=False)
