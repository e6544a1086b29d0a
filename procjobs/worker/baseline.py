"""What each job finds in its worker: the state after the initializer, whatever the jobs before have left.

1. A job runs in a copy of the context that the initializer has left.
2. After each job a few things are put back that would harm the next one most: timers, umask, directory, streams. All things
   are looked at after jobs that were not QUICK or have failed, after the FIRST ones of their kind in this worker, and after
   the next ones of a kind that has left something.
3. A worker in which something cannot be put back says so with its answer, and ends.
"""

from __future__ import annotations

import contextlib
import contextvars
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from procjobs.worker.exceptions import OWN_FILES
from procjobs.worker.own_descriptors import OwnDescriptors
from procjobs.worker.process_state import ProcessState
from procjobs.worker.streams import Streams

T = TypeVar("T")

OWN_FILES.add(__file__)

QUICK: Final = 500e-6
"""Seconds: some twenty times as long as it takes to look at everything."""
FIRST: Final = 16
_MAX_INTERRUPTIONS: Final = 100


class Findings(NamedTuple):
    """What a job has left: whether it was anything, and the words for everything that cannot be put back."""

    has_left: bool
    lost: str


_NOTHING: Final = Findings(has_left=False, lost="")


class Baseline:
    """The state of a worker before its first job."""

    def __init__(self, *, answers: int, side: int, others: Sequence[int], stack: int) -> None:
        """The arguments are those of OwnDescriptors and ProcessState."""
        self.descriptors = OwnDescriptors(answers=answers, side=side, others=others)
        self.state = ProcessState(stack)
        self.streams = Streams()
        self._put_back_cheaply = self.state.put_back_cheaply
        self._are_answers_intact = self.descriptors.are_answers_intact
        self._are_streams_intact = self.streams.are_intact
        self._context = contextvars.copy_context()
        self._decimal = _decimal_context()

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in a copy of the context."""
        if self._decimal is None:
            return self._context.copy().run(function, *args)
        return self._context.copy().run(self._run_with_decimal, function, *args)

    def _run_with_decimal(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function with a copy of the one object in a context that jobs change in place."""
        sys.modules["decimal"].setcontext(self._decimal.copy())
        return function(*args)

    def disarm(self) -> None:
        """Stop the timers of a job that has ended, whatever their handlers do meanwhile."""
        for _ in range(_MAX_INTERRUPTIONS):
            with contextlib.suppress(BaseException):
                self.state.disarm()
                _let_handlers_run()
                return

    def put_back(self, *, thoroughly: bool) -> Findings:
        """Put back everything that a job has changed, as far as it is looked at.

        Handlers of the job's signals run until they are put back, and may raise anything anywhere.
        """
        try:
            is_intact = (
                self._put_back_cheaply() and self._are_answers_intact() and self._are_streams_intact()
                and (not thoroughly or self._is_rest_intact())
            )  # fmt: skip
        except BaseException:  # noqa: BLE001 - see above: then it is not known, and everything is put back
            is_intact = False
        if is_intact:
            return _NOTHING
        for _ in range(_MAX_INTERRUPTIONS):
            try:
                return Findings(has_left=True, lost=self._put_back())
            except BaseException:  # noqa: BLE001, S112 - see above
                continue
        return Findings(has_left=True, lost="a signal handler that raises without end")

    def _is_rest_intact(self) -> bool:
        return self.state.is_intact() and self.descriptors.are_all_intact() and self.streams.are_set_up()

    def _put_back(self) -> str:
        lost = self.state.put_back()  # first: nothing of the job's interrupts the rest
        lost += filter(None, (self.descriptors.put_back(), self.streams.put_back()))
        return ", ".join(lost)


def _let_handlers_run() -> None:
    """Return. The handlers of signals that have come are called at the latest when a function of Python begins."""


def _decimal_context() -> Any:
    """Return a copy of the decimal context that an initializer or a preload has made, None if there is none."""
    if not any(variable.name == "decimal_context" for variable in contextvars.copy_context()):
        return None
    return sys.modules["decimal"].getcontext().copy()
