"""What the `*_async` calls return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from procjobs.compat.taskqueue.task_checks import check_deadline

T_co = TypeVar("T_co", covariant=True)


class Result(Generic[T_co]):
    """The outcome of a call to the database, which has been made when this is there: nothing here blocks.

    Arguments that break a rule raise in the call itself. What the database says (a name that is taken, a queue that does not
    exist) is raised here, each time that it is asked for.
    """

    def __init__(self, call: Callable[[], T_co]) -> None:
        self._value: T_co | None = None
        self._error: Exception | None = None
        try:
            self._value = call()
        except Exception as error:  # noqa: BLE001 - it is kept for whoever asks
            self._error = error

    def get_result(self) -> T_co:
        """Return what the call without `_async` returns, or raise what it raises."""
        self.check_success()
        return self._value  # type: ignore[return-value]

    def check_success(self) -> None:
        """Raise what the call without `_async` raises; return None if that is nothing."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Return at once: the call was made."""


def create_rpc(deadline: float | None = None, callback: Callable[[], Any] | None = None) -> Any:
    """Raise NotImplementedError: the `*_async` calls need no object that is made beforehand, and return one themselves."""
    if deadline is not None:
        check_deadline(deadline)
    raise NotImplementedError(
        "create_rpc() has no equal here: leave out rpc=, and call get_result() on what the *_async call returns. The calls "
        "without _async take a deadline="
    )


def refuse_rpc(rpc: object) -> None:
    """Raise TypeError if a call was given an object of `create_rpc`."""
    if rpc is not None:
        raise TypeError("rpc= cannot be given: call get_result() on what the *_async call returns")
