"""One adapter per pool: the same few methods, written with the calls of each library."""

from __future__ import annotations

import concurrent.futures
import multiprocessing

import work

WORKERS = 2


class Peer:
    """A pool of WORKERS workers. `start` imports the peer's library, so a missing library is an error of `start`.

    `preload` are modules that workers import before their first job. The caller has imported them already, so workers that
    are forked from the caller have them too. `scale` is the part of a measure's jobs that a slow peer gets.
    """

    distribution: str | None = None
    module: str | None = None
    get = "result"
    has_timeout = False
    replaces_pool = False
    scale = 1.0

    def __init__(self, *, with_timeouts=False, workers=WORKERS, preload=(), max_queued=None):
        self.with_timeouts = with_timeouts
        self.workers = workers
        self.preload = preload
        self.max_queued = max_queued

    def start(self):
        raise NotImplementedError

    def submit(self, function, *args):
        return self.pool.submit(function, *args)

    def submit_limited(self, seconds, function, *args):
        raise NotImplementedError

    def submit_notifying(self, done, function, *args):
        """Submit a job; `done` is called in this process when the result is there."""
        self.submit(function, *args).add_done_callback(done)

    def run_all(self, function, count):
        """Submit `count` calls, then wait for all."""
        submit = self.submit
        self.wait_all([submit(function) for _ in range(count)])

    def map(self, function, items):
        """Return the results in order, as the library's own `map` does with its own chunks."""
        return list(self.pool.map(function, items))

    def result(self, handle, timeout=None):
        return getattr(handle, self.get)(timeout)

    def wait_all(self, handles):
        if self.get == "result":
            for handle in handles:
                handle.result()
        else:
            for handle in handles:
                handle.get()

    def pids(self):
        """Return the processes of the pool that are not descendants of this process; only procjobs has one."""
        return []

    def close(self):
        self.pool.shutdown()


class Procjobs(Peer):
    distribution = "procjobs"
    module = "procjobs"
    has_timeout = True

    def start(self):
        import procjobs

        settings = {} if self.max_queued is None else {"max_queued": self.max_queued}
        self.pool = procjobs.Pool(workers=self.workers, preload=self.preload, **settings)
        self.submit = self.pool.submit

    def submit_limited(self, seconds, function, *args):
        return self.pool.options(timeout=seconds).submit(function, *args)

    def map(self, function, items):
        return list(self.pool.map(function, items, chunksize="auto"))

    def pids(self):
        return [self.pool.stats().supervisor_pid]


class ExecutorFork(Peer):
    module = "concurrent.futures.process"
    method = "fork"

    def start(self):
        context = multiprocessing.get_context(self.method)
        if self.preload and self.method == "forkserver":
            context.set_forkserver_preload(list(self.preload))
        self.pool = concurrent.futures.ProcessPoolExecutor(self.workers, mp_context=context)
        self.submit = self.pool.submit


class ExecutorForkserver(ExecutorFork):
    module = None
    method = "forkserver"


class MultiprocessingPool(Peer):
    module = "multiprocessing.pool"
    get = "get"

    def start(self):
        self.pool = multiprocessing.get_context("fork").Pool(self.workers)

    def submit_notifying(self, done, function, *args):
        self.pool.apply_async(function, args, callback=done)

    def submit(self, function, *args):
        return self.pool.apply_async(function, args)

    def close(self):
        self.pool.terminate()


class Billiard(MultiprocessingPool):
    distribution = "billiard"
    module = "billiard.pool"
    has_timeout = True

    def start(self):
        import billiard.pool

        self.pool = billiard.pool.Pool(self.workers, enable_timeouts=self.with_timeouts)

    def submit_limited(self, seconds, function, *args):
        return self.pool.apply_async(function, args, timeout=seconds)


class Loky(Peer):
    distribution = "loky"
    module = "loky"
    replaces_pool = True

    def start(self):
        import loky

        self.pool = loky.get_reusable_executor(
            max_workers=self.workers, timeout=None, initializer=work.import_modules, initargs=(tuple(self.preload),)
        )
        self.submit = self.pool.submit

    def close(self):
        self.pool.shutdown(kill_workers=True)


class Pebble(Peer):
    distribution = "pebble"
    module = "pebble"
    has_timeout = True

    def start(self):
        import pebble

        self.pool = pebble.ProcessPool(max_workers=self.workers, context=multiprocessing.get_context("fork"))

    def submit(self, function, *args):
        return self.pool.schedule(function, args=args)

    def submit_limited(self, seconds, function, *args):
        return self.pool.schedule(function, args=args, timeout=seconds)

    def close(self):
        self.pool.stop()
        self.pool.join()


class Mpire(Peer):
    distribution = "mpire"
    module = "mpire"
    get = "get"
    has_timeout = True

    def start(self):
        import mpire

        self.pool = mpire.WorkerPool(n_jobs=self.workers, start_method="fork", keep_alive=True)

    def submit(self, function, *args):
        return self.pool.apply_async(function, args)

    def submit_notifying(self, done, function, *args):
        self.pool.apply_async(function, args, callback=done)

    def submit_limited(self, seconds, function, *args):
        return self.pool.apply_async(function, args, task_timeout=seconds)

    def close(self):
        self.pool.terminate()


class Deadpool(Peer):
    distribution = "deadpool-executor"
    module = "deadpool"
    has_timeout = True

    def start(self):
        import deadpool

        self.pool = deadpool.Deadpool(max_workers=self.workers, max_backlog=2_000_000)
        self.submit = self.pool.submit

    def submit_limited(self, seconds, function, *args):
        return self.pool.submit(function, *args, deadpool_timeout=seconds)


PEERS: dict[str, type[Peer]] = {
    "procjobs": Procjobs,
    "ProcessPoolExecutor(fork)": ExecutorFork,
    "ProcessPoolExecutor(forkserver)": ExecutorForkserver,
    "multiprocessing.Pool": MultiprocessingPool,
    "loky": Loky,
    "pebble": Pebble,
    "mpire": Mpire,
    "billiard": Billiard,
    "deadpool": Deadpool,
}
