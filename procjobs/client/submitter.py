"""The calls that a pool and a pool with options share: submit, map, run."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeAlias, TypeVar, overload

from procjobs.client import map as mapping
from procjobs.client.connection.kinds import OPTIONS_ATTRIBUTE
from procjobs.client.job import Job
from procjobs.clock import monotonic, wall
from procjobs.errors import ConfigurationError
from procjobs.shared.config import check_count, check_seconds

if TYPE_CHECKING:
    from procjobs.client.outbox import AnySession
    from procjobs.client.pool import Pool

P = ParamSpec("P")
T = TypeVar("T")

_Awaited: TypeAlias = Callable[P, Coroutine[Any, Any, T]]
_MAX_KEY_BYTES: Final = 200


class Submitter:
    """Submits to a pool with `_changes` to its default options."""

    _changes: Mapping[str, Any]
    _delay: float = 0.0
    _at: float | None = None
    _expires: float = 0.0
    _job_key: bytes = b""
    _unique: float | None = None

    @abstractmethod
    def _target(self) -> Pool:
        """Return the pool that is submitted to."""

    @overload
    def submit(self, fn: _Awaited[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Job[T]: ...

    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Job[T]: ...

    def submit(self, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Job[Any]:
        """Hand a call to the pool and return its handle at once.

        The worker calls the function; of a coroutine function (`async def`) it runs the coroutine, in an event loop of its
        own. In that, `soft_timeout` raises JobTimeout where it awaits.

        Function and arguments are pickled here, in the calling thread; nothing is waited for but, at most
        `submit_timeout` seconds, a supervisor that takes no bytes. Raise PayloadError if the call cannot be pickled,
        QueueFull, PoolClosed, SubmitTimeout, or SupervisorLost if the supervisor has just gone.
        """
        delay = self._delay
        if self._at is not None:
            delay = max(self._at - wall(), 0.0)
        if self._unique is not None:
            call = fn, args, kwargs
            return self._target().submit_unique(call, self._changes, delay, self._expires, self._job_key, self._unique)
        return self._target().submit_with(fn, args, kwargs, self._changes, delay, self._expires, self._job_key)

    @overload
    def submit_on_commit(
        self, session: AnySession, fn: _Awaited[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Job[T]: ...

    @overload
    def submit_on_commit(
        self, session: AnySession, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Job[T]: ...

    def submit_on_commit(
        self, session: AnySession, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> Job[Any]:
        """Submit a call if, and only if, the transaction of an SQLAlchemy session is committed; return its handle at once.

        The session is a Session or an AsyncSession, or a registry of them, and takes the call like an object that is added
        to it: it is written with the next flush, into a table of the pool's store, so the session must be one of the same
        database. With the commit the job is durable; what is rolled back, a savepoint (`begin_nested`) included, has never
        been, and its handle raises UnknownJob. Should this process die after the commit, the pool finds the job within 5
        seconds, or when it is started. Nothing waits for the store: the transaction makes its tables, if it is the first.

        Raise as `submit` does, and ConfigurationError if the pool has no store or the session is of another database.
        """
        delay = self._delay
        if self._at is not None:
            delay = max(self._at - wall(), 0.0)
        if self._unique is not None:
            raise ConfigurationError("unique= is not for submit_on_commit: the transaction may have a unique row of its own")
        from procjobs.client.outbox import submit_on_commit  # with SQLAlchemy, which the caller has loaded

        call = fn, args, kwargs
        return submit_on_commit(self._target(), session, call, self._changes, delay, self._expires, self._job_key)

    @overload
    async def run(self, fn: _Awaited[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    @overload
    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    async def run(self, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Submit a call and await its result. Cancelling the awaiting task cancels the job, running or not."""
        import asyncio  # see procjobs.client.job

        return await asyncio.wrap_future(self.submit(fn, *args, **kwargs))

    @overload
    def map(
        self, fn: _Awaited[..., T], *iterables: Iterable[Any], timeout: float | None = ...,
        chunksize: int | Literal["auto"] = ..., ordered: bool = ..., progress: bool = ..., buffersize: int | None = ...,
    ) -> Iterator[T]: ...  # fmt: skip

    @overload
    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = ...,
        chunksize: int | Literal["auto"] = ..., ordered: bool = ..., progress: bool = ..., buffersize: int | None = ...,
    ) -> Iterator[T]: ...  # fmt: skip

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | Literal["auto"] = 1,
        ordered: bool = True,
        progress: bool = False,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Call `fn` with the items of the iterables side by side, and yield the results.

        `chunksize` items travel as one job, in which coroutines are awaited one after the other. With "auto" the first jobs
        take one item each and later ones as many as take 10 ms: for many tiny items that is 20 times as fast, and a job that
        raises takes the results of its chunk along. With `ordered=False` results come as they are ready. `timeout` seconds
        after this call the iterator raises TimeoutError. `progress=True` shows a bar on standard error (needs
        `procjobs[cli]`). At most `buffersize` jobs are submitted ahead of the results taken: 10,000 by default, with "auto"
        two for each worker. When the iterator is closed or a job fails, jobs that have not been answered are cancelled.
        """
        check_seconds("timeout", timeout, zero=True)
        deadline = None if timeout is None else monotonic() + timeout
        if chunksize == "auto":
            pace = mapping.Pace(self._target().worker_count(), mapping.known_length(iterables))
            jobs = mapping.submit_paced(self, fn, iterables, pace)
            default_window = pace.window
        else:
            jobs = mapping.submit_chunks(self, fn, iterables, check_count("chunksize", chunksize, minimum=1))
            default_window = mapping.WINDOW
        window = check_count("buffersize", default_window if buffersize is None else buffersize, minimum=1)
        ahead = deque(itertools.islice(jobs, window))
        results = (mapping.in_order if ordered else mapping.as_ready)(ahead, jobs, deadline)
        if chunksize == "auto":
            results = mapping.unpack_timed(results, pace)
        if chunksize != 1:
            results = mapping.Flat(results)
        return mapping.with_bar(results, fn, iterables) if progress else results


class WithOptions(Submitter):
    """A pool seen through job options: the same submit, map, run, with these options."""

    def __init__(self, parent: Submitter, changes: Mapping[str, Any]) -> None:
        changes = dict(changes)
        self._pool = parent._target()  # noqa: SLF001 - of the same class
        self._delay = check_seconds("delay", changes.pop("delay", parent._delay), zero=True, optional=False) or 0.0  # noqa: SLF001
        self._at = changes.pop("at", parent._at)  # noqa: SLF001
        if self._at is not None and self._delay:
            raise ConfigurationError("delay and at contradict each other: give one of them")
        if hasattr(self._at, "timestamp"):
            self._at = self._at.timestamp()
        check_seconds("at", self._at, zero=True)
        self._expires = check_seconds("expires", changes.pop("expires", parent._expires or None)) or 0.0  # noqa: SLF001
        self._job_key = _check_key(changes.pop("key", None)) or parent._job_key  # noqa: SLF001
        self._unique = _check_unique(changes.pop("unique", None), parent._unique)  # noqa: SLF001
        if self._unique is not None and not self._job_key:
            raise ConfigurationError("unique= needs a key=, which says what the job is the only one of")
        self._changes = {**parent._changes, **changes}  # noqa: SLF001
        self._pool.check_options(self._changes)

    def _target(self) -> Pool:
        return self._pool

    def options(self, **changes: Any) -> WithOptions:
        """Return the same with further options."""
        return WithOptions(self, changes)


def _check_key(key: object) -> bytes:
    """Return a key as it travels: its UTF-8, or a digest of one that is long."""
    if key is None:
        return b""
    if not isinstance(key, str) or not key:
        raise ConfigurationError(f"key={key!r}: expected text that is the same for jobs of which one at a time may run")
    text = key.encode(errors="surrogatepass")
    if len(text) <= _MAX_KEY_BYTES:
        return text
    import hashlib

    return hashlib.sha256(text).digest()


def _check_unique(unique: object, inherited: float | None) -> float | None:
    """Return for how many seconds after its submission a job is to be the only one of its key, ended or not."""
    if unique is None or unique is False:
        return inherited if unique is None else None
    if unique is True:
        return 0.0
    return check_seconds("unique", unique)


def job(**options: Any) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Give a function default options for when it is submitted; calling it still runs it here.

    >>> @job(timeout=60, retries=2)
    ... def render(page: int) -> str:
    ...     return f"page {page}"
    >>> render(3)
    'page 3'
    """
    from procjobs.shared.config import JobOptions

    JobOptions().but(options)

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        setattr(function, OPTIONS_ATTRIBUTE, dict(options))
        return function

    return decorate
