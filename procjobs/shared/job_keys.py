"""The keys of jobs as they travel."""

from __future__ import annotations

from typing import Final

from procjobs.errors import ConfigurationError

_MAX_KEY_BYTES: Final = 200


def pack_key(key: object) -> bytes:
    """Return a key as it travels: its UTF-8, or a digest of one that is long; empty for None."""
    if key is None:
        return b""
    if not isinstance(key, str) or not key:
        raise ConfigurationError(f"key={key!r}: expected text that is the same for jobs of which one at a time may run")
    text = key.encode(errors="surrogatepass")
    if len(text) <= _MAX_KEY_BYTES:
        return text
    import hashlib

    return hashlib.sha256(text).digest()
