"""What ffmpeg says of its progress, read from its text: pure."""

from __future__ import annotations

import contextlib
import re
from typing import Final, NamedTuple

_CLOCK: Final = re.compile(r"(-?)(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)(s|ms|us)?")
_UNITS: Final = {None: 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
_DURATION: Final = re.compile(r"\s+Duration: (\d+:\d\d:\d\d(?:\.\d+)?),")
_BEYOND: Final = 1.02
_SLACK: Final = 0.5
"""Seconds, and the share before it, by which an output may be longer than expected before nothing is expected any more."""


class Report(NamedTuple):
    """How far an ffmpeg is.

    `seconds` of the output are written; `total` are expected, None where nobody can say. `frame` is the number of frames,
    `fps` how many of them are made in a second, `speed` how many seconds of the output are made in a second, `size` the
    bytes so far: each is None where ffmpeg does not say it.
    """

    seconds: float
    total: float | None = None
    frame: int | None = None
    fps: float | None = None
    speed: float | None = None
    size: int | None = None


def read_seconds(text: str) -> float | None:
    """Return a time of ffmpeg's command line (`90`, `1:30`, `00:01:30.5`, `200ms`) in seconds, None if it is none."""
    found = _CLOCK.fullmatch(text.strip())
    if found is None:
        return None
    sign, hours, minutes, seconds, unit = found.groups()
    value = int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds) * _UNITS[unit]
    return -value if sign else value


def read_duration(line: str) -> float | None:
    """Return the duration that a line of ffmpeg's description of an input tells, in seconds; None if it tells none."""
    found = _DURATION.match(line)
    return None if found is None else read_seconds(found[1])


def read_report(block: dict[str, str], total: float | None) -> Report:
    """Return a block of `-progress`, beside the length that is expected.

    An output that is longer than that has no expected length any more: a bar that stands still at its end would be a lie.
    """
    microseconds = _number(block.get("out_time_us"))
    seconds = max(0.0, microseconds or 0.0) / 1e6
    if total is not None and seconds > total:
        total = None if seconds > total * _BEYOND + _SLACK else seconds
    frame, size = _number(block.get("frame")), _number(block.get("total_size"))
    return Report(
        seconds,
        total,
        None if frame is None else int(frame),
        _number(block.get("fps")),
        _number(block.get("speed", "").removesuffix("x")),
        None if size is None else int(size),
    )


def _number(text: str | None) -> float | None:
    with contextlib.suppress(ValueError):
        return float(text) if text else None
    return None  # N/A
