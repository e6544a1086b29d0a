"""What is in a file: its length, its picture, its sound."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from procjobs.ffmpeg.arguments import as_text, find
from procjobs.ffmpeg.outcome import raise_failure
from procjobs.ffmpeg.program import Block, Program
from procjobs.ffmpeg.reports import read_duration

_OWN: Final = ("-hide_banner", "-nostdin", "-nostats")
_COUNT: Final = ("-map", "0:v:0", "-c", "copy", "-f", "null", "-")
_MAX_LINES: Final = 20_000
"""A book on tape may have a thousand chapters, each described in some lines before the streams."""
_INPUT: Final = re.compile(r"Input #0, ([\w,.-]+), from ")
_STREAM: Final = re.compile(r"  Stream #0:\d+\S*: (Video|Audio): (\w+)(.*)")
_SIZE: Final = re.compile(r", (\d+)x(\d+)\b")
_FPS: Final = re.compile(r", (\d+(?:\.\d+)?)(k?) fps\b")
_COVER: Final = "(attached pic)"


class MediaInfo(NamedTuple):
    """What is in a media file. Each field is None where the file does not say it, or has no such stream.

    `duration` is in seconds; `width` and `height` are pixels of the first video stream as they are stored, `fps` its frames
    in a second, `frames` how many it has, if they were counted; `format` and the codecs are named as ffmpeg names them.
    """

    format: str
    duration: float | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    frames: int | None = None
    video_codec: str | None = None
    audio_codec: str | None = None


def probe(
    path: str | os.PathLike[str],
    *,
    options: Sequence[str] = (),
    count_frames: bool = False,
    executable: str | os.PathLike[str] | None = None,
) -> MediaInfo:
    """Return what is in a media file. It needs no ffprobe, and takes some 20 ms: ffmpeg reads the head of the file.

    `options` are options of the input, such as `["-protocol_whitelist", "file"]`. With `count_frames` the whole file is
    read, without decoding. A `Path` is a file, whatever its name is; a text may be any address. When the job is
    interrupted meanwhile, ffmpeg is stopped.

    Raise FfmpegError if the file is missing or no media, or there is no ffmpeg.
    """
    program = find(executable)
    arguments = [*options, "-i", as_text(path), *(_COUNT if count_frames else ())]
    lines: list[str] = []
    blocks: list[Block] = [{}]
    end = Program(program, [*_OWN, *arguments], max_lines=_MAX_LINES).run_to_end(lines.append, blocks.append)
    info = read_media(lines)
    if info is None:
        raise_failure(end, [program, *arguments])
    frames = blocks[-1].get("frame") if count_frames and not end.exit_status else None
    return info if frames is None else info._replace(frames=int(frames))


def read_media(lines: Sequence[str]) -> MediaInfo | None:
    """Return what ffmpeg's description of its first input says; None if there is none."""
    info: MediaInfo | None = None
    for line in lines:
        found = _INPUT.match(line)
        if found is not None and info is None:
            info = MediaInfo(found[1])
        if info is None:
            continue
        duration = read_duration(line)
        if duration is not None and info.duration is None:
            info = info._replace(duration=duration)
        stream = _STREAM.match(line)
        if stream is not None and _COVER not in line:
            info = _with_stream(info, *stream.groups())
    return info


def _with_stream(info: MediaInfo, kind: str, codec: str, rest: str) -> MediaInfo:
    if kind == "Audio":
        return info if info.audio_codec is not None else info._replace(audio_codec=codec)
    if info.video_codec is not None:
        return info
    size, fps = _SIZE.search(rest), _FPS.search(rest)
    return info._replace(
        video_codec=codec,
        width=None if size is None else int(size[1]),
        height=None if size is None else int(size[2]),
        fps=None if fps is None else float(fps[1]) * (1000 if fps[2] else 1),
    )
