"""How a pool is let go of, and how it is ended for everybody."""

from __future__ import annotations

import concurrent.futures
import contextlib
import sys
from typing import TYPE_CHECKING, Any, cast

from procjobs.client import launcher
from procjobs.client.link import STOP_TIMEOUT
from procjobs.errors import SupervisorError, SupervisorLost
from procjobs.host import process

if TYPE_CHECKING:
    from procjobs.client.connection.connection import Connection
    from procjobs.client.link import PoolLink


class Shutdown:
    """The ways in which this process ends its use of a pool, or the pool itself."""

    def __init__(self, link: PoolLink) -> None:
        self._link = link

    def stop(self) -> None:
        """End the pool for everybody, and wait for the end."""
        self._stop(STOP_TIMEOUT + self._link.plan.job_defaults.grace_period)

    def stop_at_once(self) -> None:
        """End the pool without a grace period, unless this process has let go of it."""
        if not self._link.closed:
            self._stop(STOP_TIMEOUT, at_once=True)

    def _stop(self, timeout: float, **arguments: Any) -> None:
        connection = self._link.connect_last()
        if connection is None:
            return
        supervisor = process.watch(connection.welcome["pid"])
        try:
            with contextlib.suppress(SupervisorLost):
                connection.request("stop", **arguments)
            connection.wait_for_end(timeout)
            self._link.release(connection)
            launcher.wait_for_end(self._link.directory, timeout)
            if supervisor is not None:  # it removes its files, the lock last, and then still has to end
                supervisor.wait(timeout)
        finally:
            if supervisor is not None:
                supervisor.close()

    def let_go(self, *, wait: bool, cancel_queued: bool) -> None:
        """Do what `Pool.shutdown` says."""
        was_closed = self._link.mark_closed()
        connection = self._link.connection
        if connection is None:
            return
        if not was_closed:
            with contextlib.suppress(SupervisorLost):
                if cancel_queued:
                    connection.request("cancel_queued")
                if self._link.is_owner:
                    connection.request("drain")
        if wait:
            self._wait_for_jobs(connection)
        elif not self._link.is_private:
            self._link.leave()

    def _wait_for_jobs(self, connection: Connection) -> None:
        concurrent.futures.wait(cast("list[concurrent.futures.Future[Any]]", connection.outstanding()))
        if self._link.is_owner:
            connection.wait_for_end(None)
        self._link.release(connection)

    def finish_at_exit(self) -> None:
        """Await the jobs of a private pool before the interpreter ends; after a Ctrl-C, end them."""
        if not self._link.is_owner:
            return
        if getattr(sys, "last_type", None) is KeyboardInterrupt:
            self.stop_at_once()
        else:
            with contextlib.suppress(SupervisorError):  # without a thread for answers: the pool ends with this process
                self.let_go(wait=True, cancel_queued=False)
