"""Jobs of schedules, which note for what time they are."""

from __future__ import annotations

import os
import time

import procjobs


def note(path, *extra):
    """Append a line to a file: the time that the run is for, and what else was given."""
    job = procjobs.current_job()
    line = " ".join([repr(job.scheduled_for.timestamp()), job.schedule, *map(str, extra)])
    _append(path, line)
    return line


def note_and_wait(path, go):
    """Note, and go on when a file is there."""
    note(path, "begun")
    while not os.path.exists(go):
        time.sleep(0.005)  # job
    note(path, "ended")


def note_given(path, when):
    """Note a time that was an argument."""
    _append(path, f"{when.timestamp()!r} {when.tzinfo}")


def fail(path):
    """Note, and fail."""
    note(path)
    raise ValueError("scheduled to fail")


def length(path, data):
    """Note how long the data is."""
    note(path, len(data))


def _append(path, line):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


def periods(path):
    """Return the times that runs were for, as they were noted."""
    return [float(line.split()[0]) for line in lines(path)]


def lines(path):
    """Return what was noted."""
    try:
        with open(path) as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []
