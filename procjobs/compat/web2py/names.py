"""The constants that programs import from web2py's scheduler."""

from __future__ import annotations

from typing import Final

QUEUED: Final = "QUEUED"
ASSIGNED: Final = "ASSIGNED"
RUNNING: Final = "RUNNING"
COMPLETED: Final = "COMPLETED"
FAILED: Final = "FAILED"
TIMEOUT: Final = "TIMEOUT"
STOPPED: Final = "STOPPED"
EXPIRED: Final = "EXPIRED"

ACTIVE: Final = "ACTIVE"
PICK: Final = "PICK"
DISABLED: Final = "DISABLED"
TERMINATE: Final = "TERMINATE"
KILL: Final = "KILL"
STOP_TASK: Final = "STOP_TASK"

TASK_STATUS: Final = (QUEUED, ASSIGNED, RUNNING, COMPLETED, FAILED, TIMEOUT, STOPPED, EXPIRED)
"""The original leaves ASSIGNED out, so that an assigned task cannot be edited in its own forms."""
RUN_STATUS: Final = (RUNNING, COMPLETED, FAILED, TIMEOUT, STOPPED)
WORKER_STATUS: Final = (ACTIVE, PICK, DISABLED, TERMINATE, KILL, STOP_TASK)

HEARTBEAT: Final = 3
"""Seconds between two heartbeats of a worker that was given none."""
CLEAROUT: Final = "!clear!"
"""A task that prints this drops everything that it has printed before."""
