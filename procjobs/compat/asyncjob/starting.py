"""Starting: the pool that the jobs run in, and the parts of the application that its workers need.

The original ran jobs in a thread of the web application. A worker is another process, so it is sent two things that a
thread would find there: the session registry with the URL of its database, and the plain values of TurboGears'
configuration.
"""

from __future__ import annotations

import json
import os
import threading
from typing import Any, Final

from procjobs.compat.asyncjob import alias, application
from procjobs.compat.asyncjob.current import AsyncWorker, set_running, try_running
from procjobs.compat.asyncjob.perform import asyncjob_perform
from procjobs.compat.asyncjob.progress import asyncjobs_progress_status
from procjobs.compat.asyncjob.trackers.memory import MemoryProgressTracker
from procjobs.errors import ConfigurationError

_AS_TGEXT: Final = "procjobs.compat.asyncjob.as_tgext"
_MARK: Final = "PROCJOBS_POOL"
"""The environment variable that every process of a pool has."""
_KNOWN: Final = frozenset(
    {"name", "workers", "preload", "session", "timeout", "max_rss", "nice", "linger", "directory", "version"}
)

_lock = threading.RLock()
_settings: dict[str, Any] = {}
_is_pool_worker = False


def configure(**settings: Any) -> None:
    """Set how the pool is started; call it before `start_async_worker()`.

    name ("asyncjob"), workers ("auto"; 1 runs one job at a time), preload (modules to import once, the one with the jobs
    among them), timeout, max_rss, nice, linger, directory, version: as in `procjobs.Pool`. session: the place of the
    application's scoped_session, such as "myapp.model:DBSession"; by default TurboGears is asked.
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
        if try_running() is not None:
            raise ConfigurationError("the worker was started already; call configure() before start_async_worker()")
        _settings.update(settings)


def start_async_worker(app_globals: Any = None, progress_tracker: Any = None) -> AsyncWorker:
    """Start the pool, or attach to it, and return a handle; in any process, before or after a fork, any number of times.

    progress_tracker: keeps the progress instead of the pool's shared memory, such as a RedisProgressTracker; it goes to
        the workers, so it has to be picklable.
    """
    with _lock:
        if progress_tracker is not None:
            asyncjobs_progress_status._tracker = progress_tracker  # noqa: SLF001 - the original's name for it, used by tests
        elif asyncjobs_progress_status._tracker is None:  # noqa: SLF001
            asyncjobs_progress_status._tracker = MemoryProgressTracker()  # noqa: SLF001
        worker = try_running()
        if worker is None:
            worker = AsyncWorker(_describe(), set_up_worker, asyncjob_perform)
            set_running(worker)
    if _MARK not in os.environ:  # a worker or its template that imports the application is in the pool already
        _ = worker.pool
    target = app_globals if app_globals is not None else application.app_globals()
    if target is not None:
        target.asyncjob_queue = worker
    return worker


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
    """Return the facts that a pool and its workers are started with, as JSON; all processes of the application agree."""
    settings = {"name": "asyncjob", **application.settings(_KNOWN), **_settings}
    if alias.is_installed():
        settings["preload"] = [_AS_TGEXT, *settings.get("preload", ())]
    facts = application.describe(settings.get("session"))
    try:
        return json.dumps({"settings": settings, "application": facts}, sort_keys=True)
    except TypeError as error:
        raise ConfigurationError(f"the settings of asyncjob are plain values, such as texts and numbers: {error}") from None


def set_up_worker(facts: str) -> None:
    """Make this process a worker in which jobs find their application; the pool's initializer."""
    global _is_pool_worker
    described = json.loads(facts)
    if _AS_TGEXT in described["settings"].get("preload", ()):
        alias.install()
    with _lock:
        _is_pool_worker = True
        set_running(AsyncWorker(facts, set_up_worker, asyncjob_perform))  # a job hands jobs to the pool that it runs in
    application.set_up(described["application"])


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
