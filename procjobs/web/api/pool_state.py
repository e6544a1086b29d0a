"""The state of a pool in a word, and its counters, as the API shows them. Reads shared memory and /proc; asks nobody."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from procjobs.errors import ProcjobsError
from procjobs.web.api.shapes import STATS
from procjobs.web.text import clean_lines

if TYPE_CHECKING:
    from procjobs import PoolStats

STATES: Final = ("running", "paused", "draining", "degraded", "not answering", "killed", "unreadable")
"""killed: the supervisor has gone and left its table; not answering: it is stopped; unreadable: there is no table."""


def pool_state(pool: Any, stats: PoolStats) -> str:
    """Return one of STATES for a pool whose counters are `stats`."""
    supervisor = _letter(stats.supervisor_pid)
    has_ended = hasattr(pool, "is_running") and not pool.is_running()
    if has_ended or supervisor in {"", "Z", "X"}:
        return "killed"
    if supervisor in {"T", "t"}:
        return "not answering"
    return "draining" if stats.draining else "degraded" if stats.problem else "paused" if stats.paused else "running"


def _letter(pid: int) -> str:
    """Return the letter that the kernel has for the state of a process; "" if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]


def pool_document(name: str, pool: Any) -> dict[str, Any]:
    """Return the document of a pool: its name, its state, its counters; these are null where they cannot be read."""
    try:
        stats = pool.stats()
    except ProcjobsError as error:
        return {"name": name, "state": "unreadable", "stats": None, "error": clean_lines(str(error), 500)}
    return {"name": name, "state": pool_state(pool, stats), "stats": STATS.document(stats), "error": None}
