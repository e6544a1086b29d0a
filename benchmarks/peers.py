"""One adapter per pool: the same few calls, each in the words of its library."""

from __future__ import annotations

import concurrent.futures
import multiprocessing

WORKERS = 2


class Peer:
    """A pool of WORKERS workers. Importing a peer's library is part of `start`, so that a missing one is told there."""

    distribution: str | None = None
    get = "result"
    has_timeout = False
    replaces_pool = False

    def __init__(self, *, with_timeouts=False):
        self.with_timeouts = with_timeouts

    def start(self):
        raise NotImplementedError

    def submit(self, function, *args):
        return self.pool.submit(function, *args)

    def submit_limited(self, seconds, function, *args):
        raise NotImplementedError

    def result(self, handle, timeout=None):
        return getattr(handle, self.get)(timeout)

    def wait_all(self, handles):
        if self.get == "result":
            for handle in handles:
                handle.result()
        else:
            for handle in handles:
                handle.get()

    def close(self):
        self.pool.shutdown()


class Procjobs(Peer):
    distribution = "procjobs"
    has_timeout = True

    def start(self):
        import procjobs

        self.pool = procjobs.Pool(workers=WORKERS)
        self.submit = self.pool.submit

    def submit_limited(self, seconds, function, *args):
        return self.pool.options(timeout=seconds).submit(function, *args)


class ExecutorFork(Peer):
    method = "fork"

    def start(self):
        context = multiprocessing.get_context(self.method)
        self.pool = concurrent.futures.ProcessPoolExecutor(WORKERS, mp_context=context)
        self.submit = self.pool.submit


class ExecutorForkserver(ExecutorFork):
    method = "forkserver"


class MultiprocessingPool(Peer):
    get = "get"

    def start(self):
        self.pool = multiprocessing.get_context("fork").Pool(WORKERS)

    def submit(self, function, *args):
        return self.pool.apply_async(function, args)

    def close(self):
        self.pool.terminate()


class Billiard(MultiprocessingPool):
    distribution = "billiard"
    has_timeout = True

    def start(self):
        import billiard.pool

        self.pool = billiard.pool.Pool(WORKERS, enable_timeouts=self.with_timeouts)

    def submit_limited(self, seconds, function, *args):
        return self.pool.apply_async(function, args, timeout=seconds)


class Loky(Peer):
    distribution = "loky"
    replaces_pool = True

    def start(self):
        import loky

        self.pool = loky.get_reusable_executor(max_workers=WORKERS, timeout=None)
        self.submit = self.pool.submit

    def close(self):
        self.pool.shutdown(kill_workers=True)


class Pebble(Peer):
    distribution = "pebble"
    has_timeout = True

    def start(self):
        import pebble

        self.pool = pebble.ProcessPool(max_workers=WORKERS, context=multiprocessing.get_context("fork"))

    def submit(self, function, *args):
        return self.pool.schedule(function, args=args)

    def submit_limited(self, seconds, function, *args):
        return self.pool.schedule(function, args=args, timeout=seconds)

    def close(self):
        self.pool.stop()
        self.pool.join()


class Mpire(Peer):
    distribution = "mpire"
    get = "get"
    has_timeout = True

    def start(self):
        import mpire

        self.pool = mpire.WorkerPool(n_jobs=WORKERS, start_method="fork", keep_alive=True)

    def submit(self, function, *args):
        return self.pool.apply_async(function, args)

    def submit_limited(self, seconds, function, *args):
        return self.pool.apply_async(function, args, task_timeout=seconds)

    def close(self):
        self.pool.terminate()


class Deadpool(Peer):
    distribution = "deadpool-executor"
    has_timeout = True

    def start(self):
        import deadpool

        self.pool = deadpool.Deadpool(max_workers=WORKERS, max_backlog=200_000)
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
