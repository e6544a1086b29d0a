"""A job with real work: it transcodes a video. PyAV contains FFmpeg's libraries."""

from __future__ import annotations

import av
import numpy as np

import procjobs


def make_clip(path, *, frames, width, height, rate):
    """Write a video of a moving pattern with some noise."""
    noise = np.random.default_rng(1).integers(0, 24, (height, width, 3), np.uint8)
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 4_000_000
        for number in range(frames):
            light = ((across + 3 * number) ^ (down + 2 * number)).astype(np.uint8) // 2
            picture = np.stack([light, np.roll(light, number, 1), 255 - light], 2) // 2 + np.roll(noise, number, 0)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode())


def transcode(source, target):
    """Write the video again as H.264, or as MPEG-4 if libx264 is missing; report progress for each frame."""
    with av.open(source) as reader, av.open(target, "w") as writer:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        pictures = reader.streams.video[0]
        pictures.codec_context.thread_count = 1
        stream = writer.add_stream(codec, rate=pictures.average_rate)
        stream.width, stream.height, stream.pix_fmt = pictures.width, pictures.height, "yuv420p"
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(reader.decode(pictures)):
            procjobs.progress(number, pictures.frames)
            frame.pict_type = av.video.frame.PictureType.NONE
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode())
