"""The specification of a generation's code, as the supervisor reads it; templates read the rest of it.

It is the JSON object in the memory file that comes with a client's HELLO.
"""

from __future__ import annotations

import json
import os
from typing import Any, Final, NamedTuple

from procjobs.shared.source_digest import Source
from procjobs.shared.wire import WireError, parse_json

_MAX_BYTES: Final = 64 * 2**20


class CodeSpec(NamedTuple):
    """`flags` are options for the interpreter; `files` are the source files that the client has seen."""

    flags: list[str]
    environment: dict[str, str]
    files: dict[str, Source]


def read_spec(fd: int) -> CodeSpec:
    """Return the specification in a memory file, whose position stays.

    One that makes no sense is empty: its template fails for it, and tells the clients that have it.
    """
    try:
        spec = parse_json(os.pread(fd, min(os.fstat(fd).st_size, _MAX_BYTES), 0))
        flags = spec.get("flags", [])
        if isinstance(flags, list) and all(isinstance(flag, str) for flag in flags):
            return CodeSpec(flags, check_texts(spec.get("environment", {})), check_files(spec.get("files", {})))
    except (OSError, WireError):
        pass
    return CodeSpec([], {}, {})


def renewed_spec(fd: int, present: CodeSpec) -> bytes:
    """Return the specification in a memory file with these values; as it is if it makes no sense."""
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    try:
        return json.dumps({**parse_json(data), **present._asdict()}).encode()
    except WireError:
        return data


def check_texts(value: Any) -> dict[str, str]:
    """Return a mapping of texts to texts; raise WireError for anything else."""
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise WireError("expected texts by name")
    return value


def check_files(value: Any) -> dict[str, Source]:
    """Return source files by path, as JSON has them; raise WireError for anything else."""
    try:
        return {
            path: Source(str(digest), float(changed_at), bool(is_loaded))
            for path, (digest, changed_at, is_loaded) in value.items()
        }
    except (AttributeError, TypeError, ValueError):
        raise WireError("expected digests and times of files") from None
