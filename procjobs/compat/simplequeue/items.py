"""Items, and the two calls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from procjobs import PulledItem
from procjobs.compat.simplequeue.settings import queue_of


class _Content:
    """What is in the queue for an item: no tuple, so that an error can name the part that cannot be pickled."""

    __slots__ = ("args", "kwargs", "value")

    def __init__(self, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.value = value
        self.args = args
        self.kwargs = kwargs


class Item:
    """An item that this thread has taken. `value` is the item or the function, `args` a tuple, `kwargs` a dict.

    `id` is what `enqueue` has returned, `queue` the name of its queue. `tries` counts how often the item was taken: it is 2
    or more where a consumer has ended before `done()`.
    """

    __slots__ = ("_content", "_pulled")

    def __init__(self, pulled: PulledItem) -> None:
        self._pulled = pulled
        self._content: _Content = pulled.value

    @property
    def id(self) -> str:
        """The id of the item."""
        return self._pulled.id

    @property
    def queue(self) -> str:
        """The name of its queue."""
        return self._pulled.queue

    @property
    def tries(self) -> int:
        """How often it was taken, this time included."""
        return self._pulled.tries

    @property
    def value(self) -> Any:
        """What was enqueued."""
        return self._content.value

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments for it."""
        return self._content.args

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments for it."""
        return self._content.kwargs

    def __call__(self) -> Any:
        """Return what `value(*args, **kwargs)` returns; raise TypeError for a value that cannot be called."""
        if not callable(self.value):
            raise TypeError(
                f"item {self.id} of queue {self.queue!r} cannot be called: it is of type {type(self.value).__name__}. Take "
                "its .value"
            )
        return self.value(*self.args, **self.kwargs)

    def done(self) -> bool:
        """Remove the item for good, before the next `dequeue` of this thread would; return whether it was still there.

        Any thread of this process may call it, any number of times.
        """
        return self._pulled.done()

    def __repr__(self) -> str:
        return f"<Item {self.id} of queue {self.queue!r}>"


def enqueue(
    item: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, queue: str = "default"
) -> str:
    """Put a value, or a function with its arguments, at the end of a queue; return its id.

    When this returns, no end of a process can lose the item; with a store, nor can a reboot. Raise PayloadError for what
    cannot be pickled or takes more than 64 MiB, TypeError or ValueError for arguments of another type, and StoreUnavailable
    where the database cannot be used.
    """
    if isinstance(args, str | bytes) or not isinstance(args, Sequence):
        raise TypeError(f"args={args!r}: expected a list or tuple of the positional arguments")
    kwargs = {} if kwargs is None else kwargs
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise TypeError(f"kwargs={kwargs!r}: expected a dict of the keyword arguments, with their names as keys")
    return queue_of(_checked_name(queue)).put(_Content(item, tuple(args), dict(kwargs)))


def dequeue(queue: str = "default", timeout: float | None = 0) -> Item | None:
    """Return the oldest item of a queue, None if there is none for `timeout` seconds; a timeout of None waits for ever.

    The item that this thread has dequeued before is done with this call, whichever queue it was in. Raise PayloadError for
    an item that cannot be unpickled in this process, which is then set aside: the next call has the next item. Raise
    TypeError or ValueError for arguments of another type, and StoreUnavailable where the database cannot be used.
    """
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float)):
        raise TypeError(f"timeout={timeout!r}: expected seconds as a number, or None to wait for ever")
    if timeout is not None and (math.isnan(timeout) or timeout < 0):
        raise ValueError(f"timeout={timeout!r}: expected zero or more seconds, or None to wait for ever")
    pulled = queue_of(_checked_name(queue)).take(timeout)
    return None if pulled is None else Item(pulled)


def _checked_name(queue: str) -> str:
    if not isinstance(queue, str):
        raise TypeError(f"queue={queue!r}: expected the name of a queue")
    return queue
