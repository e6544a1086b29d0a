"""Whether a request that came to the application is one of the queue's; the same for WSGI and for ASGI.

A request without a signature costs nothing: no key is needed to see that it is nobody's. The key is read from the database
of the queues when the first signature comes, and kept. It is read again, every RELOAD_SECONDS at the most, when a signature
does not fit: the database may have been made anew since.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

from procjobs.compat.taskqueue import signing
from procjobs.compat.taskqueue.errors import NotConfiguredError

MARK: Final = "procjobs.taskqueue.signed"
"""The key in the environ of WSGI, and in the scope of ASGI, that is true for requests of the queue. No client can set it."""
DEFERRED_URL: Final = "/_ah/queue/deferred"
"""The path where deferred calls go."""
RELOAD_SECONDS: Final = 5.0

_log: Final = logging.getLogger(__package__)


class Gate:
    """Verifies signatures with the key that `load_key` reads; `load_key` may block, and may raise any exception."""

    def __init__(self, load_key: Callable[[], bytes]) -> None:
        self._load_key = load_key
        self._key: bytes | None = None
        self._read_at = -RELOAD_SECONDS
        self._lock = threading.Lock()
        _gates.add(self)

    def try_signature_of(self, value: str, request: signing.Received) -> tuple[signing.Signature | None, bool]:
        """Return what `signature_of` does, and True; or (None, False) where that would have to look at the database."""
        signature = signing.read(value)
        if signature is None or not signing.is_fresh(signature):
            return None, True
        if self._key is not None and signing.is_genuine(self._key, signature, request):
            return signature, True
        return None, time.monotonic() - self._read_at < RELOAD_SECONDS

    def signature_of(self, value: str, request: signing.Received) -> signing.Signature | None:
        """Return the signature of a request of the queue, whose body is not verified yet; None for any other request.

        It may block for the database. Requests that come meanwhile wait for the same answer. Raise what `load_key` raises,
        but for NotConfiguredError: nothing is a request of the queue then.
        """
        signature, is_settled = self.try_signature_of(value, request)
        if is_settled:
            return signature
        with self._lock:
            if time.monotonic() - self._read_at >= RELOAD_SECONDS:
                self._read_key()
        return self.try_signature_of(value, request)[0]

    def _read_key(self) -> None:
        try:
            self._key = self._load_key()
        except NotConfiguredError as error:
            _log.error("A request has a signature of a task queue, which cannot be verified: %s", error)
        except Exception:
            if self._key is None:
                raise  # the next request tries again: without a key, none could get through
            self._read_at = time.monotonic()
            raise
        self._read_at = time.monotonic()

    def after_fork_in_child(self) -> None:
        """Take another lock: a thread that is not there any more may hold the old one."""
        self._lock = threading.Lock()


_gates: Final[weakref.WeakSet[Gate]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for gate in list(_gates):
        gate.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)


def is_deferred(paths: tuple[bytes, ...], signature: signing.Signature | None) -> bool:
    """Return whether one of the ways to understand the path of a request is that of deferred calls."""
    prefix = b"" if signature is None else signature.prefix
    return DEFERRED_URL.encode() in {*paths, *(path.removeprefix(prefix) for path in paths)}
