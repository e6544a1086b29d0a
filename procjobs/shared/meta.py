"""What a job's submitter notes of it: a JSON object, small enough to be in shared memory. Pure."""

from __future__ import annotations

import json
from typing import Any, Final

from procjobs.errors import ConfigurationError

MAX_META_BYTES: Final = 2048
"""The most bytes of JSON, in UTF-8."""


def pack_meta(meta: object) -> bytes:
    """Return a job's meta as JSON, empty for an empty one; raise ConfigurationError for what cannot be one.

    What is read later is equal to what was given: no tuples, no keys other than text. Databases take no zero characters.
    """
    if not isinstance(meta, dict):
        raise ConfigurationError(f"meta={meta!r:.200}: expected a dict such as {{'user': 7}}")
    try:
        text = json.dumps(meta, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
        packed = text.encode()
        is_same = json.loads(text) == meta
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"meta={meta!r:.200}: it cannot be written as JSON: {error}") from None
    if not is_same:
        raise ConfigurationError(
            f"meta={meta!r:.200}: only what JSON has comes back as it was: texts as keys; texts, numbers, True, False, "
            "None, lists and dicts as values"
        )
    if "\\u0000" in text.replace("\\\\", ""):
        raise ConfigurationError(f"meta={meta!r:.200}: databases take no zero characters in texts")
    if len(packed) > MAX_META_BYTES:
        raise ConfigurationError(
            f"meta={meta!r:.100}...: it has {len(packed)} bytes as JSON, and {MAX_META_BYTES} are allowed. Keep "
            "what is larger where it belongs, and its key here"
        )
    return packed if meta else b""


def unpack_meta(packed: bytes | str | None) -> dict[str, Any]:
    """Return the meta of a job; raise ValueError for what is none."""
    if not packed:
        return {}
    try:
        meta = json.loads(packed)
    except RecursionError:
        meta = None
    if not isinstance(meta, dict) or len(packed if isinstance(packed, bytes) else packed.encode()) > MAX_META_BYTES:
        raise ValueError("this is no meta of a job")
    return meta
