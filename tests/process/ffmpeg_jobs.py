"""Jobs that run ffmpeg, for test_ffmpeg.py."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path

import psutil

import procjobs.ffmpeg

ENDLESS = ["-re", "-f", "lavfi", "-i", "testsrc2=size=64x36:rate=20", "-t", "600", "-g", "10"]


def left_over():
    """Everything of ffmpeg that this process has: its children, threads and pipes."""
    me = psutil.Process()
    threads = [thread.name for thread in threading.enumerate() if "ffmpeg" in thread.name]
    return {"children": [child.pid for child in me.children()], "threads": threads, "descriptors": me.num_fds()}


def encode(arguments, told=None, **options):
    """Run ffmpeg, and write what is left at its end, and how it ended."""
    before = left_over()
    try:
        return procjobs.ffmpeg.run(arguments, **options)
    except BaseException as error:
        if told is not None:
            Path(told).write_text(json.dumps({"error": type(error).__name__, "before": before, "after": left_over()}))
        raise


def encode_in_a_thread(arguments, told):
    """The same, where the worker interrupts another thread: one that waits until it is over."""
    ended = threading.Event()
    threading.Thread(target=_swallow, args=(arguments, told, ended)).start()
    try:
        ended.wait()
    finally:
        ended.wait()


def _swallow(arguments, told, ended):
    with contextlib.suppress(procjobs.JobCancelled):
        encode(arguments, told)
    ended.set()
