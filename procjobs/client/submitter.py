"""The calls that a pool and a pool with options share: submit, map, run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypeVar, overload

from procjobs.client.bulk import Bulk
from procjobs.client.call import AnyCall
from procjobs.client.connection.submission import TERM_NAMES, Terms
from procjobs.client.job import Job
from procjobs.client.map import map_calls
from procjobs.errors import ConfigurationError
from procjobs.shared.config import JobOptions
from procjobs.shared.durations import Seconds
from procjobs.shared.function_names import OPTIONS_ATTRIBUTE

if TYPE_CHECKING:
    from procjobs.client.job import StatusSource
    from procjobs.client.outbox import AnySession
    from procjobs.client.producer import Producer

P = ParamSpec("P")
T = TypeVar("T")

_Awaited: TypeAlias = Callable[P, Coroutine[Any, Any, T]]


class Submitter:
    """Submits calls through a producer, all on the same terms."""

    def __init__(self, producer: Producer, terms: Terms) -> None:
        self._producer = producer
        self._terms = terms

    @abstractmethod
    def _status_source(self) -> StatusSource:
        """Return the pool, which handles ask for the status of their jobs, and keep alive."""

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
        terms = self._terms
        if terms.unique is not None:
            return self._producer.submit_unique(self._status_source(), (fn, args, kwargs), terms)
        return self._producer.submit(self._status_source(), (fn, args, kwargs), terms)

    def submit_many(self, calls: Iterable[AnyCall[T]]) -> list[Job[T]]:
        """Submit calls together, all of them or none; return their handles in order.

        Each is a `procjobs.Call(function, *args, **kwargs)`, which may have `.options(...)` of its own, or a tuple
        `(function, *args)`. The pool takes them as one, and with a store commits them as one: whatever is killed meanwhile,
        either all of them run or none. Faster than as many `submit`.

        Raise as `submit` does: if one cannot be pickled, has a bad option or finds no room, none is submitted. Raise
        ConfigurationError for `unique` too, and for a batch that is too large: 128 MiB, or 4,096 calls with arguments of
        more than 64 KiB.
        """
        return Bulk(self._producer, self._status_source(), tuple(calls), self._terms).submit()

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
        if self._terms.unique is not None:
            raise ConfigurationError("unique= is not for submit_on_commit: the transaction may have a unique row of its own")
        from procjobs.client.outbox import submit_on_commit  # with SQLAlchemy, which the caller has loaded

        return submit_on_commit(self._producer, self._status_source(), session, (fn, args, kwargs), self._terms)

    @overload
    async def run(self, fn: _Awaited[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    @overload
    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    async def run(self, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Submit a call and await its result. Cancelling the awaiting task cancels the job, running or not."""
        import asyncio  # see procjobs.client.job

        if not self._producer.link.is_connected:  # a supervisor is started, or waited for: not in the event loop
            await asyncio.get_running_loop().run_in_executor(None, self._producer.link.connect)
        return await asyncio.wrap_future(self.submit(fn, *args, **kwargs))

    @overload
    def map(
        self, fn: _Awaited[..., T], *iterables: Iterable[Any], timeout: Seconds | None = ...,
        chunksize: int | Literal["auto"] = ..., ordered: bool = ..., progress: bool = ..., buffersize: int | None = ...,
        return_exceptions: Literal[False] = ...,
    ) -> Iterator[T]: ...  # fmt: skip

    @overload
    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: Seconds | None = ...,
        chunksize: int | Literal["auto"] = ..., ordered: bool = ..., progress: bool = ..., buffersize: int | None = ...,
        return_exceptions: Literal[False] = ...,
    ) -> Iterator[T]: ...  # fmt: skip

    @overload
    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: Seconds | None = ...,
        chunksize: int | Literal["auto"] = ..., ordered: bool = ..., progress: bool = ..., buffersize: int | None = ...,
        return_exceptions: bool = ...,
    ) -> Iterator[Any]: ...  # fmt: skip

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: Seconds | None = None,
        chunksize: int | Literal["auto"] = 1,
        ordered: bool = True,
        progress: bool = False,
        buffersize: int | None = None,
        return_exceptions: bool = False,
    ) -> Iterator[Any]:
        """Call `fn` with the items of the iterables side by side, and yield the results.

        `chunksize` items travel as one job, in which coroutines are awaited one after the other. With "auto" the first jobs
        take one item each and later ones as many as take 10 ms: for many tiny items that is 20 times as fast, and a job that
        raises takes the results of its chunk along. With `ordered=False` results come as they are ready. `timeout` seconds
        after this call the iterator raises TimeoutError. `progress=True` shows a bar on standard error (needs
        `procjobs[cli]`); what jobs of a private pool print appears above it. At most `buffersize` jobs are submitted ahead
        of the results taken: 10,000 by default, with "auto" two for each worker. When the iterator is closed or a job fails,
        jobs that have not been answered are cancelled.

        With `return_exceptions=True` an exception is yielded in the place of its result, also of a single item of a chunk,
        and the other jobs go on. If a chunk fails as a whole, because its worker crashed or its time is out, each of its
        items has that exception. `retries` are of jobs: an item of a chunk is not tried again.
        """
        return map_calls(
            self.submit, self._producer.link, fn, iterables,
            timeout=timeout, chunksize=chunksize, ordered=ordered, progress=progress, buffersize=buffersize,
            return_exceptions=return_exceptions,
        )  # fmt: skip


class WithOptions(Submitter):
    """A pool seen through job options: the same submit, map, run, with these options."""

    def __init__(self, producer: Producer, source: StatusSource, terms: Terms) -> None:
        super().__init__(producer, terms)
        self._source = source
        producer.check_options(terms.changes)

    def _status_source(self) -> StatusSource:
        return self._source

    def options(self, **changes: Any) -> WithOptions:
        """Return the same with further options."""
        return WithOptions(self._producer, self._source, self._terms.but(changes))


def job(**options: Any) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Give a function default options for when it is submitted; calling it still runs it here.

    >>> @job(timeout=60, retries=2)
    ... def render(page: int) -> str:
    ...     return f"page {page}"
    >>> render(3)
    'page 3'
    """
    misplaced = options.keys() & TERM_NAMES
    if misplaced:
        raise ConfigurationError(
            f"{', '.join(sorted(misplaced))}: this is of one submission, not of a function: pool.options(...).submit(...)"
        )
    JobOptions().but(options)

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        setattr(function, OPTIONS_ATTRIBUTE, dict(options))
        return function

    return decorate
