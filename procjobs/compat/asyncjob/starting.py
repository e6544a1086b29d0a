"""Starting: which pool the jobs run in, and what its workers need of the application.

A worker is another process than the web application, so it is told what a thread of the application would find there: the
application's session registry with the URL of its database, and the plain values of TurboGears' configuration.
"""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Any, Final

from procjobs.compat.asyncjob import alias, application
from procjobs.compat.asyncjob.progress import asyncjobs_progress_status
from procjobs.compat.asyncjob.trackers.memory import MemoryProgressTracker
from procjobs.errors import ConfigurationError
from procjobs.host import observe

if TYPE_CHECKING:
    from procjobs.client.pool import Pool

_AS_TGEXT: Final = "procjobs.compat.asyncjob.as_tgext"
_KNOWN: Final = frozenset(
    {"name", "workers", "preload", "session", "timeout", "max_rss", "nice", "linger", "directory", "version"}
)

_lock = threading.RLock()
_settings: dict[str, Any] = {}
_worker: AsyncWorker | None = None
_is_pool_worker = False


class NotStarted(ConfigurationError):
    """A job was handed over before `start_async_worker()` was called."""


class AsyncWorker:
    """What `start_async_worker()` returns: the pool, under the names that the original's thread has."""

    daemon = True
    name = "procjobs.asyncjob"

    def __init__(self, facts: str) -> None:
        """Make a handle; `facts` is the JSON of what `describe` returned."""
        self._facts = facts
        self._pool: Pool | None = None

    @property
    def pool(self) -> Pool:
        """The pool: started, or attached to, when it is first asked for."""
        from procjobs.client.pool import Pool

        with _lock:
            if self._pool is None:
                settings = dict(json.loads(self._facts)["settings"])
                settings.pop("session", None)
                self._pool = Pool(**settings, initializer=set_up_worker, initargs=(self._facts,))
            return self._pool

    def is_alive(self) -> bool:
        """Return whether the pool's supervisor runs."""
        return bool(self.pool.stats().supervisor_pid)

    def perform(self, what: Any, args: Any, params: Any) -> str:
        """Hand a job over, as the original's `app_globals.asyncjob_queue.perform` does."""
        from procjobs.compat.asyncjob.perform import asyncjob_perform

        return asyncjob_perform(what, *(args or ()), **(params or {}))

    def __repr__(self) -> str:
        return f"<AsyncWorker {json.loads(self._facts)['settings']['name']}>"


def configure(**settings: Any) -> None:
    """Set how the pool is started; call it before `start_async_worker()`.

    name ("asyncjob"), workers ("auto"; 1 runs one job at a time), preload (modules to import once, the one with the jobs
    among them), timeout, max_rss, nice, linger, directory, version: as in `procjobs.Pool`. session: where the workers find
    the application's scoped_session, such as "myapp.model:DBSession"; by default TurboGears is asked.
    """
    unknown = sorted(settings.keys() - _KNOWN)
    if unknown:
        import difflib

        close = difflib.get_close_matches(unknown[0], _KNOWN, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigurationError(f"unknown setting {unknown[0]!r}{hint}; there are: {', '.join(sorted(_KNOWN))}")
    with _lock:
        if _is_pool_worker:  # an application's module that a job has imported: the pool runs with its settings
            return
        if _worker is not None:
            raise ConfigurationError("the worker was started already; call configure() before start_async_worker()")
        _settings.update(settings)


def start_async_worker(app_globals: Any = None, progress_tracker: Any = None) -> AsyncWorker:
    """Start the pool, or attach to it, and return a handle; in any process, before or after a fork, any number of times.

    progress_tracker: where progress is kept instead of the pool's shared memory, such as a RedisProgressTracker; it goes
        to the workers, so it has to be picklable.
    """
    global _worker
    with _lock:
        if progress_tracker is not None:
            asyncjobs_progress_status._tracker = progress_tracker  # noqa: SLF001 - the original's name for it, used by tests
        elif asyncjobs_progress_status._tracker is None:  # noqa: SLF001
            asyncjobs_progress_status._tracker = MemoryProgressTracker()  # noqa: SLF001
        if _worker is None:
            _worker = AsyncWorker(_describe())
        worker = _worker
    if observe.MARK not in os.environ:  # a worker or its template that imports the application is in the pool already
        _ = worker.pool
    target = app_globals if app_globals is not None else application.app_globals()
    if target is not None:
        target.asyncjob_queue = worker
    return worker


def running() -> AsyncWorker:
    """Return the handle; raise NotStarted if there is none."""
    if _worker is None:
        raise NotStarted(
            "asyncjob is not started in this process: call start_async_worker(), or plug it into the application with "
            "tgext.pluggable: plug(base_config, 'procjobs.compat.asyncjob')"
        )
    return _worker


def plugme(configurator: Any, options: dict[str, Any] | None = None) -> dict[str, str]:
    """Start with a TurboGears 2 application: `plug(base_config, 'procjobs.compat.asyncjob', workers=2)`.

    Options are those of `configure`, and the original's `app_globals` and `progress_tracker`.
    """
    del configurator
    from tg.configuration import milestones

    options = dict(options or {})
    started_with = {name: options.pop(name, None) for name in ("app_globals", "progress_tracker")}
    options.pop("appid", None)
    if options:
        configure(**options)
    milestones.environment_loaded.register(lambda: start_async_worker(**started_with))
    return {"appid": "tgext.asyncjob"}


def _describe() -> str:
    """Return as JSON what a pool and its workers are started with; the same in all processes of the application."""
    settings = {"name": "asyncjob", **application.settings(_KNOWN), **_settings}
    if alias.is_installed():
        settings["preload"] = [_AS_TGEXT, *settings.get("preload", ())]
    facts = application.describe(settings.get("session"))
    try:
        return json.dumps({"settings": settings, "application": facts}, sort_keys=True)
    except TypeError as error:
        raise ConfigurationError(f"the settings of asyncjob are plain values, such as texts and numbers: {error}") from None


def set_up_worker(facts: str) -> None:
    """Make a worker process one that jobs find their application in; the pool's initializer."""
    global _worker, _is_pool_worker
    described = json.loads(facts)
    if _AS_TGEXT in described["settings"].get("preload", ()):
        alias.install()
    with _lock:
        _is_pool_worker = True
        _worker = AsyncWorker(facts)  # a job hands jobs to the pool that it runs in
    application.set_up(described["application"])


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
