"""The keys of jobs, as they travel and as they are shown."""

from __future__ import annotations

from typing import Final

from procjobs.errors import ConfigurationError

MAX_KEY_BYTES: Final = 200
_DIGEST_BYTES: Final = 32


def pack_key(key: object) -> bytes:
    """Return a key as it travels: its UTF-8, or a digest of one that is long; empty for None."""
    if key is None:
        return b""
    if not isinstance(key, str) or not key:
        raise ConfigurationError(f"key={key!r}: expected text that is the same for jobs of which one at a time may run")
    text = key.encode(errors="surrogatepass")
    if len(text) <= MAX_KEY_BYTES:
        return text
    import hashlib

    return hashlib.sha256(text).digest()


def key_text(key: bytes | None) -> str | None:
    """Return a key as text, None for a job without one; of a long one, which is known by its digest, "sha256:" and that.

    >>> key_text(b"user 7"), key_text(b""), key_text(bytes(31) + b"\xff")[:15]
    ('user 7', None, 'sha256:00000000')
    """
    if not key:
        return None
    try:
        return key.decode()
    except UnicodeDecodeError:
        return f"sha256:{key.hex()}" if len(key) == _DIGEST_BYTES else key.decode(errors="replace")
