"""The jobs: functions that know films on a disk, and nothing of the web.

A film is a folder. `source` is what was uploaded; the jobs write `video.mp4` (or `video.webm`), `poster.jpg` and `strip.jpg`
beside it, each completely or not at all. `pieces` is there while the film is encoded.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import procjobs
import procjobs.ffmpeg

PIECE_SECONDS = float(os.environ.get("TRANSCODE_PIECE_SECONDS", "4"))

# Anybody may upload anything. A playlist is a film to ffmpeg too, and could name files of this host and addresses.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,gif,nut,dv,mxf,h264,hevc,ivf,yuv4mpegpipe"
SAFE = ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS]

FORMATS = {
    "mp4": {
        "label": "MP4 (H.264)",
        "encoders": ("libx264", "aac"),
        "picture": ["-c:v", "libx264", "-preset", "medium", "-crf", "23", "-pix_fmt", "yuv420p"],
        "sound": ["-c:a", "aac", "-b:a", "128k"],
        "file": ["-movflags", "+faststart", "-f", "mp4"],
    },
    "webm": {
        "label": "WebM (VP9)",
        "encoders": ("libvpx-vp9", "libopus"),
        "picture": ["-c:v", "libvpx-vp9", "-crf", "34", "-b:v", "0", "-deadline", "good", "-cpu-used", "4", "-row-mt", "1",
                    "-pix_fmt", "yuv420p"],
        "sound": ["-c:a", "libopus", "-b:a", "96k", "-ar", "48000"],
        "file": ["-f", "webm"],
    },
}  # fmt: skip
FIT = "scale='min(1280,iw)':-2"


class NotAFilm(ValueError):
    """The file that was uploaded has no picture that moves."""


@functools.cache
def formats() -> dict[str, dict[str, Any]]:
    """Return the formats that the ffmpeg of this host can make."""
    command = [procjobs.ffmpeg.find(), "-hide_banner", "-encoders"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
    encoders = {line.split()[1] for line in text.splitlines() if len(line.split()) > 1}
    return {name: one for name, one in FORMATS.items() if encoders.issuperset(one["encoders"])}


def transcode(folder: Path, name: str) -> dict[str, Any]:
    """Encode a film in pieces of some seconds; go on behind the pieces that an attempt before has made.

    Returns how many pieces there are, and how many of them this attempt has encoded.
    """
    target = folder / f"video.{name}"
    wanted = FORMATS[name]
    info = procjobs.ffmpeg.probe(folder / "source", options=SAFE)
    if info.video_codec is None or not info.duration:
        raise NotAFilm("there is no moving picture in this file")
    pieces = folder / "pieces"
    pieces.mkdir(exist_ok=True)
    count = math.ceil(info.duration / PIECE_SECONDS)
    job = procjobs.current_job()
    done = (job.checkpoint if job is not None else None) or {"sound": False, "pieces": 0}
    made = [piece(pieces, number).exists() for number in range(done["pieces"])]
    first = made.index(False) if False in made else len(made)

    if info.audio_codec is not None and not (done["sound"] and (pieces / "sound.mka").exists()):
        procjobs.progress(0, info.duration, "encoding the sound")
        encode(pieces / "sound.mka", ["-map", "0:a:0", "-vn", *wanted["sound"], "-f", "matroska"], folder, progress=False)
        procjobs.checkpoint({"sound": True, "pieces": first})
    for number in range(first, count):
        start = number * PIECE_SECONDS
        report = functools.partial(tell, start, info.duration, f"piece {number + 1} of {count}")
        options = ["-map", "0:v:0", "-an", "-vf", FIT, *wanted["picture"], "-f", "matroska"]
        encode(piece(pieces, number), options, folder, start=start, progress=report)
        procjobs.checkpoint({"sound": True, "pieces": number + 1})

    procjobs.progress(info.duration, info.duration, "joining the pieces")
    join(pieces, count, wanted["file"], target)
    shutil.rmtree(pieces)
    return {"pieces": count, "encoded": count - first}


def tell(start: float, total: float, message: str, report: procjobs.ffmpeg.Report) -> None:
    procjobs.progress(min(start + min(report.seconds, PIECE_SECONDS), total), total, message)


def encode(target: Path, options: list[str], folder: Path, *, start: float | None = None, progress: Any = True) -> None:
    """Encode the source, or the piece of it that begins at `start`."""
    part = [] if start is None else ["-ss", f"{start:.6f}", "-t", f"{PIECE_SECONDS:.6f}"]
    with replacing(target) as new:
        procjobs.ffmpeg.run([*SAFE, *part, "-i", folder / "source", *options, new], progress=progress)


def piece(pieces: Path, number: int) -> Path:
    return pieces / f"{number:05}.mkv"


def join(pieces: Path, count: int, options: list[str], target: Path) -> None:
    """Put the pieces into one file, without encoding them again, and the sound beside them."""
    names = [piece(pieces, number).name for number in range(count)]
    lines = ["ffconcat version 1.0", *(f"file {name}\nduration {PIECE_SECONDS:.6f}" for name in names)]
    (pieces / "list.txt").write_text("\n".join(lines))
    inputs = ["-f", "concat", "-i", pieces / "list.txt"]
    if (pieces / "sound.mka").exists():
        inputs += ["-i", pieces / "sound.mka"]
    with replacing(target) as new:
        procjobs.ffmpeg.run([*inputs, "-c", "copy", "-map_metadata", "-1", *options, new], progress=False)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield the name of a new file, which takes the place of `target` when it is complete, or is removed."""
    new = target.with_name(f".{target.name}.part")
    new.unlink(missing_ok=True)
    try:
        yield new
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)


def make_poster(folder: Path) -> None:
    """Make one picture of the film, as large as the film is shown."""
    duration = procjobs.ffmpeg.probe(folder / "source", options=SAFE).duration or 0.0
    picture = ["-frames:v", "1", "-update", "1", "-vf", "scale='min(960,iw)':-2", "-q:v", "4", "-f", "image2"]
    with replacing(folder / "poster.jpg") as new:
        place = ["-ss", f"{duration * 0.4:.3f}", "-i", folder / "source"]
        procjobs.ffmpeg.run([*SAFE, *place, "-map", "0:v:0", *picture, new], message="poster")


def make_strip(folder: Path, count: int = 8) -> None:
    """Make a strip of small pictures from the whole length of the film."""
    duration = procjobs.ffmpeg.probe(folder / "source", options=SAFE).duration or 0.0
    small = "scale=160:90:force_original_aspect_ratio=increase,crop=160:90"
    filters = f"fps={count}/{max(duration, 0.1):.3f},{small},tile={count}x1"
    picture = ["-frames:v", "1", "-update", "1", "-vf", filters, "-q:v", "4", "-f", "image2"]
    with replacing(folder / "strip.jpg") as new:
        procjobs.ffmpeg.run([*SAFE, "-i", folder / "source", "-map", "0:v:0", *picture, new], message="strip")


def make_sample(folder: Path, seconds: float = 24.0) -> None:
    """Make a source of our own: a flight into the Mandelbrot set, with a chord that swells."""
    picture = (
        "mandelbrot=size=960x540:rate=25:start_x=-0.743643887037158:start_y=0.131825904205311"
        f":start_scale=2.5:end_scale=0.0004:end_pts={seconds * 25:.0f}:maxiter=400"
    )
    tones = ((110, 0.12, 0.2), (164.8, 0.08, 0.13), (220.5, 0.06, 0.31), (277.2, 0.04, 0.17))
    chord = "+".join(f"{loud}*sin(2*PI*{tone}*t)*(0.6+0.4*sin(2*PI*{swell}*t))" for tone, loud, swell in tones)
    with replacing(folder / "source") as new:
        procjobs.ffmpeg.run(
            ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", f"aevalsrc='{chord}'", "-t", f"{seconds:g}",
             "-vf", "hue=h=15*t:s=0.9,format=yuv420p", "-c:v", "libx264" if "mp4" in formats() else "mpeg4",
             "-preset", "ultrafast", "-crf", "18", "-c:a", "aac", "-f", "matroska", new],
            message="painting a sample",
        )  # fmt: skip
