"""Whether a request that came to the application is one of the queue's; the same for WSGI and for ASGI.

A request without a signature costs nothing: no key is needed to see that it is nobody's. The key is read from the database
of the queues when the first signature comes, and kept. It is read again, every RELOAD_SECONDS at the most, when a signature
does not fit: the database may have been made anew since.
"""

from __future__ import annotations

import logging
import time
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

    def signature_of(self, value: str, request: signing.Received) -> signing.Signature | None:
        """Return the signature of a request of the queue, whose body is not verified yet; None for any other request.

        Raise what `load_key` raises, but for NotConfiguredError: nothing is a request of the queue then.
        """
        signature = signing.read(value)
        if signature is None or not signing.is_fresh(signature):
            return None
        if self._key is not None and signing.is_genuine(self._key, signature, request):
            return signature
        key = self._read_key()
        return signature if key is not None and signing.is_genuine(key, signature, request) else None

    @property
    def has_key(self) -> bool:
        """Whether a good signature is verified without a look at the database."""
        return self._key is not None

    def _read_key(self) -> bytes | None:
        """Return the key as it is in the database now; None where that was looked up a moment ago, or has no answer."""
        now = time.monotonic()
        if now - self._read_at < RELOAD_SECONDS:
            return None
        before, self._read_at = self._read_at, now
        try:
            self._key = self._load_key()
        except NotConfiguredError as error:
            _log.error("A request has a signature of a task queue, which cannot be verified: %s", error)
            return None
        except Exception:
            self._read_at = before if self._key is None else now  # the next genuine request is to get through
            raise
        return self._key


def is_deferred(paths: tuple[bytes, ...], signature: signing.Signature | None) -> bool:
    """Return whether one of the ways to understand the path of a request is that of deferred calls."""
    prefix = b"" if signature is None else signature.prefix
    return DEFERRED_URL.encode() in {*paths, *(path.removeprefix(prefix) for path in paths)}
