"""Jobs for the tests of schedules: each leaves a file that tells of it."""

from __future__ import annotations

import os

import procjobs


def note(folder, what="ran"):
    """Leave a file for the time that this run is for; a second run for it fails."""
    job = procjobs.current_job()
    with open(f"{folder}/{what}-{job.scheduled_for.timestamp():.6f}", "x") as file:
        file.write(str(os.getpid()))
    return what


async def note_later(folder):
    return note(folder, "awaited")


def fail(text):
    raise ValueError(text)
