"""The file in which a supervisor leaves jobs that have not begun to its successor, which may be of another release.

    one line, MAGIC
    records: u32 length of the JSON, JSON with "sizes", then that many parts of these sizes

    "generation"  its key, its interpreter; part: the specification of its code
    "kind"        parts: description and function, as in a KIND frame; JSON as in the CALLER frame before it, without the key
    "job"         its id, numbers of its generation and kind (by their order in the file), and the fields of WaitingJob;
                  parts: key, inline part of the payload, content of its memory file where "is_large". "extras": a later
                  addition, with the fields that have defaults
    "schedule"    number of its kind, JSON as in WaitingSchedule; parts: key, inline part, content of its memory file where
                  "is_large"

Times are Unix times, 0.0 for none.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple

from procjobs.shared import private_files
from procjobs.shared.meta import unpack_meta
from procjobs.shared.scheduled import pack_origin
from procjobs.shared.wire import U32

MAGIC: Final = b"jobs that wait for the successor of a supervisor of procjobs, 1\n"
_MAX_JSON: Final = 16 * 2**20


class WaitingGeneration(NamedTuple):
    """The code that a job runs."""

    key: str
    executable: str
    spec: bytes


class WaitingKind(NamedTuple):
    """The kind of a job. `caller` says where its modules are; the key of multiprocessing is in no file."""

    description: bytes
    function: bytes
    caller: bytes


class WaitingJob(NamedTuple):
    """A job that waits. `large` has a descriptor when it is written, and the bytes when it is read.

    `checkpoint` is base64, and `scheduled_for` a number in decimal.
    """

    job_id: bytes
    generation: int
    kind: int
    attempt: int
    interrupted: int
    crashes: int
    submitted_at: float
    not_before: float
    expires_at: float
    unique_until: float | None
    history: list[dict[str, Any]] | None
    key: bytes
    inline: bytes
    large: int | bytes | None
    meta: str = ""
    retry_of: str = ""
    checkpoint: str = ""
    schedule: str = ""
    scheduled_for: str = ""


class WaitingSchedule(NamedTuple):
    """A schedule of a pool without a store. `values` is JSON; `large` as in WaitingJob."""

    kind: int
    values: dict[str, Any]
    key: bytes
    inline: bytes
    large: int | bytes | None


Record = WaitingGeneration | WaitingKind | WaitingJob | WaitingSchedule
_FIELDS: Final = slice(1, WaitingJob._fields.index("key"))
"""The fields of a job that are neither its id nor parts nor among its extras."""
_EXTRAS: Final = WaitingJob._field_defaults


def write(path: str, records: Iterable[Record]) -> None:
    """Write the file, whole or not at all; raise OSError, also where there is a file that procjobs did not make."""
    if os.path.lexists(path) and not _is_own(path):
        raise FileExistsError(f"{path} is a file that procjobs did not make")
    with private_files.replacing(path) as part, open(private_files.create(part, replace=True), "wb") as file:
        file.write(MAGIC)
        for record in records:
            _write_record(file, record)


def _write_record(file: BinaryIO, record: Record) -> None:
    head: dict[str, Any]
    if isinstance(record, WaitingGeneration):
        head, parts = {"generation": [record.key, record.executable]}, [record.spec]
    elif isinstance(record, WaitingKind):
        head, parts = {"kind": True}, [*record]
    elif isinstance(record, WaitingSchedule):
        head = {"schedule": [record.kind, record.values], "is_large": record.large is not None}
        parts = [record.key, record.inline]
    else:
        values = tuple(record)
        fields = [record.job_id.hex(), *values[_FIELDS]]
        head, parts = {"job": fields, "is_large": record.large is not None}, [record.key, record.inline]
        head["extras"] = {name: getattr(record, name) for name in _EXTRAS}
    large = getattr(record, "large", None)
    sizes = [len(part) for part in parts]
    if isinstance(large, int):
        sizes.append(os.fstat(large).st_size)
    text = json.dumps({**head, "sizes": sizes}).encode()
    file.write(b"".join((U32.pack(len(text)), text, *parts)))
    if isinstance(large, int):
        file.flush()
        _copy(large, file.fileno(), sizes[-1])


def _copy(source: int, target: int, size: int) -> None:
    offset = 0
    while offset < size:
        sent = os.sendfile(target, source, offset, size - offset)
        if not sent:
            raise OSError("a payload is shorter than it was")
        offset += sent


def read(path: str) -> Iterator[Record]:
    """Yield what the file has; nothing where there is none that procjobs has made. Raise ValueError if it makes no sense."""
    if not _is_own(path):
        return
    with open(path, "rb") as file:
        file.seek(len(MAGIC))
        while head := file.read(U32.size):
            try:
                yield _read_record(file, head)
            except (LookupError, TypeError, EOFError) as error:
                raise ValueError(f"a record that makes no sense: {error!r}") from None


def _read_record(file: BinaryIO, head: bytes) -> Record:
    length = int.from_bytes(head, "little")
    if len(head) < U32.size or length > _MAX_JSON:
        raise ValueError("a record without a length")
    values = json.loads(file.read(length))
    parts = [file.read(int(size)) for size in values["sizes"]]
    if [len(part) for part in parts] != values["sizes"]:
        raise EOFError("a record that is cut off")
    if "generation" in values:
        key, executable = values["generation"]
        return WaitingGeneration(str(key), str(executable), parts[0])
    if "kind" in values:
        return WaitingKind(*parts[:3])
    large = parts[2] if values["is_large"] else None
    if "schedule" in values:
        kind, state = values["schedule"]
        return WaitingSchedule(int(kind), dict(state), parts[0], parts[1], large)
    job_id, *fields = values["job"]
    extras = {name: value for name, value in values.get("extras", {}).items() if name in _EXTRAS}
    if not all(isinstance(value, str) for value in extras.values()):
        raise TypeError("extras of a job that are no texts")
    unpack_meta(extras.get("meta"))
    pack_origin(extras.get("schedule"), int(extras.get("scheduled_for") or 0))
    return WaitingJob._make([bytes.fromhex(job_id), *fields, *parts[:2], large, *_EXTRAS.values()])._replace(**extras)


def _is_own(path: str) -> bool:
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return os.fstat(fd).st_uid == os.geteuid() and os.read(fd, len(MAGIC)) == MAGIC
        finally:
            os.close(fd)
    return False


def remove(path: str) -> None:
    """Remove the file, if procjobs has made it."""
    if _is_own(path):
        with contextlib.suppress(OSError):
            os.unlink(path)
