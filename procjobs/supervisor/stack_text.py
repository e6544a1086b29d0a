"""The text of Python stacks, as faulthandler writes them, made fit for readers. Pure."""

from __future__ import annotations

from typing import Final

from procjobs.shared.wire import limit_text

MAX_STACK_BYTES: Final = 16 * 1024
_FIRST: Final = "(most recent call first):"
_OWN_FRAMES: Final = (
    *(f"/procjobs/{module}.py" for module in ("worker/worker", "worker/baseline", "template/template", "host/process")),
    'File "<string>", line 1 in',
)


def without_own_frames(text: str) -> str:
    """Return the standard error of a job without the worker's frames in faulthandler's stacks.

    They come last, so that in the end of the text they would be in the place of the job's own.
    """
    if _FIRST not in text:
        return text
    return "".join(line for line in text.splitlines(keepends=True) if not _is_own_frame(line))


def _is_own_frame(line: str) -> bool:
    is_frame = line.startswith('  File "') and ", in " not in line  # that would be a traceback's
    return is_frame and any(frame in line for frame in _OWN_FRAMES)


def for_readers(text: bytes) -> str:
    """Return the stacks without the frames of the worker itself."""
    lines = text.decode(errors="replace").splitlines()
    kept: list[str] = []
    for line in [*lines, ""]:
        if kept and not line.startswith(" ") and kept[-1].endswith(_FIRST):
            kept.append("  (in a function that is not written in Python)")
        if not _is_own_frame(line):
            kept.append(line)
    return limit_text("\n".join(kept).strip(), MAX_STACK_BYTES)
