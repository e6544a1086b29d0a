"""Payloads: calls and results as pickles, and how they travel. The only module that unpickles.

The C pickler does the work. `pickler` steps in for values that the C pickler cannot pickle or would pickle wrong: functions
and classes that cannot be imported by name, above all those of `__main__`, which is another module in a worker.

A payload is (inline bytes, descriptor or None). Without a descriptor the inline bytes are the pickle. With one they say
how a memory file is divided:

    INLINE PART OF A PAYLOAD WITH A DESCRIPTOR
    OFFSET SIZE FIELD
    0      8    length of the pickle, which begins the file
    8      8    length of the first out-of-band buffer, which begins at the next multiple of 64
    ...         and so on

Buffers (numpy arrays, memoryviews, PickleBuffers) are written into the file once. The receiver maps it privately:
nothing is copied on arrival, the objects are writable, and neither side sees the writes of the other. Nothing can leak,
since the file has no name and the kernel counts its references.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import cloudpickle

from procjobs.errors import JobTimeout
from procjobs.host import culprit
from procjobs.host.descriptors import Descriptor, open_descriptor
from procjobs.host.mapping import map_privately
from procjobs.host.pickler import NOTHING, Pickler
from procjobs.originals import close
from procjobs.shared.wire import MAX_INLINE_BYTES

OUT_OF_BAND_BYTES: Final = 32 * 1024
"""Buffers from this size on travel out of band. Measured in jobs per second: with 24 kB 9,000 inline, 6,700 out of band;
with 32 kB 5,700 and 6,700."""
_MAX_BUFFERS: Final = 4000
"""Further buffers of one payload stay in the pickle: the lengths of all have to fit into a frame."""
_ALIGN: Final = 64
_STREAM_BYTES: Final = 1024 * 1024
"""A bytes or str argument from this size on is pickled straight into the memory file: one copy instead of two."""
_TEXTS: Final = frozenset({bytes, str})
_BY_NAME: Final = pickle.STACK_GLOBAL
_registered_by_value = cloudpickle.cloudpickle._PICKLE_BY_VALUE_MODULES  # noqa: SLF001 - cloudpickle's own set; it changes
_NOT_FOR_C: Final = (pickle.PicklingError, TypeError, AttributeError, RecursionError)
"""The errors after which cloudpickle is asked: with these the C pickler says that it cannot. Any other comes from a pickling
method of the value, which would raise it again, or from outside: from a signal handler, say."""


Payload = tuple[bytes, Descriptor | None]
"""The part in a frame, and the descriptor that goes with it, which is closed with its last reference."""


class _FileSink:
    """A file for a pickler: writes go straight to a descriptor, however large.

    `is_for_c` says whether the C pickler has done all of it right. The large parts are not looked at: they are plain.
    """

    def __init__(self, fd: Descriptor, by_value: AbstractSet[str]) -> None:
        self._fd = fd
        self._by_value = by_value
        self.written = 0
        self.is_for_c = True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view) < _STREAM_BYTES:
            self.is_for_c = self.is_for_c and _is_for_c(bytes(view), self._by_value)
        _write_all(self._fd, view)
        self.written += len(view)
        return len(view)


def _write_all(fd: Descriptor, data: bytes | memoryview) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd.fileno(), view) :]
    except JobTimeout:  # an OSError as well: the soft timeout of the job that does this
        raise
    except OSError as error:
        raise _in_words(error) from error


def open_memory_file(directory: str) -> Descriptor:
    """Return an empty file in memory that has no name.

    Where the kernel has no memfd_create (or forbids it), an unlinked file in `directory` serves as well.
    """
    if hasattr(os, "memfd_create"):
        try:
            return open_descriptor(os.memfd_create, "procjobs", os.MFD_CLOEXEC)
        except JobTimeout:
            raise
        except OSError:
            pass  # ENOSYS or a seccomp filter's EPERM: the file below works everywhere
    import tempfile

    try:
        fd, path = tempfile.mkstemp(dir=directory)
    except OSError as error:
        raise _in_words(error, directory) from error
    os.unlink(path)
    return Descriptor(fd, "r+")


def memory_file(content: bytes, directory: str) -> Descriptor:
    """Return an unnamed file with this content, at its beginning."""
    memory = open_memory_file(directory)
    with open(memory.fileno(), "wb", closefd=False) as file:
        file.write(content)
    os.lseek(memory.fileno(), 0, os.SEEK_SET)
    return memory


def _in_words(error: OSError, directory: str = "/dev/shm") -> OSError:  # noqa: S108 - where most pools are
    """Return the error of a memory file with what is missing, how much, and what to do."""
    from procjobs.host import shortages

    return OSError(shortages.explain(error, directory))


def dump(
    value: Any,
    directory: str,
    parts: Sequence[Any] = (),
    by_value: AbstractSet[str] = NOTHING,
    *,
    lends_handles: bool = False,
) -> Payload:
    """Pickle a value; `parts` are those of its parts that may be very large bytes or text.

    `by_value` and `lends_handles` are as in `Pickler`. Any error of the value's own pickling methods comes through as it is.
    """
    for part in parts:
        if type(part) in _TEXTS and len(part) >= _STREAM_BYTES:
            return _dump_streaming(value, directory, by_value, lends_handles)
    buffers: list[pickle.PickleBuffer] = []
    data = dump_inline(value, buffers, by_value, lends_handles=lends_handles)
    if not buffers and len(data) <= MAX_INLINE_BYTES:
        return data, None
    return _into_file([data, *(buffer.raw() for buffer in buffers)], directory)


def dump_inline(
    value: Any,
    buffers: list[pickle.PickleBuffer] | None = None,
    by_value: AbstractSet[str] = NOTHING,
    *,
    lends_handles: bool = False,
) -> bytes:
    """Pickle a value into bytes, as `dump` does; large buffers are put aside into `buffers` where it is given."""
    callback = None if buffers is None else _aside(buffers)
    try:
        data = pickle.dumps(value, 5, buffer_callback=callback)
    except _NOT_FOR_C:
        data = b""
    if data and (_BY_NAME not in data or _is_for_c(data, by_value)):  # most calls have nothing that goes by name
        return data
    if buffers is not None:
        buffers.clear()
    sink = io.BytesIO()
    Pickler(sink, callback, by_value, lends_handles=lends_handles).dump(value)
    return sink.getvalue()


def _is_for_c(data: bytes, by_value: AbstractSet[str]) -> bool:
    """Return whether the C pickler has done this right: it mentions no module whose contents go another way."""
    return (
        b"__main__" not in data
        and b"multiprocessing" not in data
        and b"Request" not in data
        and not (by_value and any(name.encode(errors="replace") in data for name in by_value))
        and not _registered_by_value
    )


def _aside(buffers: list[pickle.PickleBuffer]) -> Any:
    def aside(buffer: pickle.PickleBuffer) -> bool:
        try:
            large = buffer.raw().nbytes >= OUT_OF_BAND_BYTES and len(buffers) < _MAX_BUFFERS
        except BufferError:  # not contiguous: numpy copies those itself
            return True
        if large:
            buffers.append(buffer)
        return not large

    return aside


def _dump_streaming(value: Any, directory: str, by_value: AbstractSet[str], lends_handles: bool) -> Payload:
    fd = open_memory_file(directory)
    buffers: list[pickle.PickleBuffer] = []
    sink = _FileSink(fd, by_value)
    try:
        pickle.Pickler(sink, 5, buffer_callback=_aside(buffers)).dump(value)
        is_done = sink.is_for_c
    except _NOT_FOR_C:
        is_done = False
    if not is_done:
        fd.close()
        return _into_file([dump_inline(value, None, by_value, lends_handles=lends_handles)], directory)
    return _append_buffers(fd, sink.written, [buffer.raw() for buffer in buffers]), fd


def _into_file(parts: Sequence[bytes | memoryview], directory: str) -> Payload:
    fd = open_memory_file(directory)
    _write_all(fd, parts[0])
    return _append_buffers(fd, len(parts[0]), parts[1:]), fd


def _append_buffers(fd: Descriptor, written: int, buffers: Sequence[bytes | memoryview]) -> bytes:
    lengths = [written]
    for buffer in buffers:
        os.lseek(fd.fileno(), -(-written // _ALIGN) * _ALIGN, os.SEEK_SET)
        view = memoryview(buffer).cast("B")
        _write_all(fd, view)
        written = -(-written // _ALIGN) * _ALIGN + len(view)
        lengths.append(len(view))
    return struct.pack(f"<{len(lengths)}Q", *lengths)


class Received:
    """A payload that has arrived. Only `load` runs code of the payload's author, and it may run any."""

    __slots__ = ("_inline", "_mapped")

    def __init__(self, inline: bytes, fd: int | None) -> None:
        """Map the descriptor, if there is one, and close it."""
        self._inline = inline
        self._mapped: memoryview | None = None
        if fd is not None:
            try:
                self._mapped = map_privately(fd)
            finally:
                close(fd)

    def load(self) -> Any:
        """Unpickle. Every call makes new objects, but they share the memory of out-of-band buffers."""
        if self._mapped is None:
            return pickle.loads(self._inline)
        lengths = struct.unpack(f"<{len(self._inline) // 8}Q", self._inline)
        parts, position = [], 0
        for length in lengths:
            parts.append(self._mapped[position : position + length])
            position = -(-(position + length) // _ALIGN) * _ALIGN
        return pickle.loads(parts[0], buffers=parts[1:])


def dump_function(function: Any, by_value: AbstractSet[str] = NOTHING) -> bytes:
    """Pickle a function: by name if it can be imported by name elsewhere, else by value."""
    sink = io.BytesIO()
    Pickler(sink, None, by_value).dump(function)
    return sink.getvalue()


def explain(call: tuple[Any, ...], name: str, error: Exception, by_value: AbstractSet[str] = NOTHING) -> str:
    """Return which part of a call cannot be pickled, and what to do instead."""
    *function, args, kwargs = call
    parts = [("the function", f) for f in function]
    parts += [(f"argument {n}", value) for n, value in enumerate(args)] + [(f"argument {k!r}", v) for k, v in kwargs.items()]

    def dump_part(value: Any) -> object:
        return dump_inline(value, [], by_value, lends_handles=True)

    for what, value in parts:
        try:
            dump_part(value)
        except Exception as own:  # noqa: BLE001 - it is reported
            why = culprit.explain(value, name if what == "the function" else what, own, dump_part)
            return f"{what} of {name}, of type {type(value).__name__}, cannot be pickled: {why}"
    return f"the call of {name} cannot be pickled: {error}"


def explain_result(result: Any, error: Exception) -> str:
    """Return why a result cannot be pickled: the member that cannot, and what to do instead."""
    return culprit.explain(result, "the result", error, lambda part: dump_inline(part, []))


def loads(data: bytes) -> Any:
    """Unpickle bytes that `dump_inline` or `dump_function` made."""
    return pickle.loads(data)
