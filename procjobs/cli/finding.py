"""Finds the pool that a name means, and the job that an id or a part of one means."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from procjobs.cli.problems import NOT_RUNNING, UNKNOWN_JOB, USAGE, Problem
from procjobs.client.running_pool import RunningPool, find_pool, find_pools
from procjobs.errors import ProcjobsError, UnknownJob
from procjobs.host.rundir import PRIVATE_PREFIX, RunDir, is_held, others_bases
from procjobs.shared.config import check_pool_name
from procjobs.shared.records import JobStatus

_WHOLE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_PART_OF_ID = re.compile(r"[0-9a-f-]{4,36}\Z")
_ALL = 2**62


class Found(NamedTuple):
    """A job and the pool that knows it."""

    pool: RunningPool
    status: JobStatus


def looks_like_id(text: str) -> bool:
    """Return whether this is a whole job id."""
    return _WHOLE_ID.match(text) is not None


@contextmanager
def open_pool(name: str, directory: str | None = None) -> Iterator[RunningPool]:
    """Attach to a running pool; raise Problem if it is not running, or if its supervisor was killed."""
    found = find_pool(check_pool_name(name), directory)
    if found is None:
        raise Problem(f"pool {name!r} is not running", _hint(name, directory), NOT_RUNNING)
    with RunningPool(found) as pool:
        if not pool.is_running():
            raise Problem(
                f"pool {name!r} is not running: its supervisor was killed and has left {found.path}",
                f"`procjobs start {name}` starts it again, and so does the next client; see also {pool.log}",
                NOT_RUNNING,
            )
        yield pool


def _hint(name: str, directory: str | None) -> str:
    running = [pool.name for pool in running_pools(directory) if not pool.name.startswith(PRIVATE_PREFIX)]
    others = f"running: {', '.join(running)}; " if running else ""
    return f"{others}start it with `procjobs start {name}`"


def running_pools(directory: str | None) -> list[RunDir]:
    """Return the pools that have a supervisor."""
    return [pool for pool in find_pools(directory) if is_held(pool.lock)]


def describe_none(directory: str | None) -> str:
    """Return that no pool is running, and what is to be said of the directory that was given beside that."""
    if directory is None:
        return "no pool is running"
    if not os.path.isdir(os.path.dirname(os.path.abspath(directory))):  # itself it is made with the first pool
        return f"no pool is running: this user sees no directory in which {directory} could be"
    whose = ", ".join(f"{path} ({_name_of(uid)})" for path, uid in others_bases(directory))
    if not whose:
        return "no pool is running"
    return f"no pool of this user is running; those of other users can be read by these alone: {whose}"


def _name_of(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


@contextmanager
def open_one(name: str | None, directory: str | None) -> Iterator[RunningPool]:
    """Attach to the pool with this name; without a name, to the only running pool."""
    if name is None:
        running = running_pools(directory)
        named = [pool for pool in running if not pool.name.startswith(PRIVATE_PREFIX)] or running
        if not named:
            raise Problem("no pool is running", "start one with `procjobs start NAME`", NOT_RUNNING)
        if len(named) > 1:
            names = ", ".join(pool.name for pool in named)
            raise Problem(f"{len(named)} pools are running, but no NAME was given", f"name one of {names}", USAGE)
        name = named[0].name
    with open_pool(name, directory) as pool:
        yield pool


@contextmanager
def open_job(text: str, pool_name: str | None, directory: str | None) -> Iterator[Found]:
    """Find a job by its id, or a unique part of it, in this user's pools; raise Problem if there is no such job."""
    if pool_name is not None:
        with open_pool(pool_name, directory) as pool:
            yield Found(pool, _pick(text, _matches(pool, text), pool_name))
        return
    found: list[Found] = []
    pools: list[RunningPool] = []
    try:
        for place in find_pools(directory):
            try:
                pool = RunningPool(place)
            except ProcjobsError:  # the pool has just ended, or its table is of another release
                continue
            pools.append(pool)
            found += [Found(pool, status) for status in _matches(pool, text)]
        status = _pick(text, [one.status for one in found], None)
        yield next(one for one in found if one.status is status)
    finally:
        for pool in pools:
            pool.close()


def _matches(pool: RunningPool, text: str) -> list[JobStatus]:
    if looks_like_id(text):
        try:
            return [pool.status(text)]
        except UnknownJob:
            return []
    if not _PART_OF_ID.match(text):
        return []
    return [status for status in pool.jobs(limit=_ALL) if text in status.id]


def _pick(text: str, statuses: list[JobStatus], pool_name: str | None) -> JobStatus:
    where = "any pool of this user" if pool_name is None else f"pool {pool_name!r}"
    if not _PART_OF_ID.match(text):
        raise Problem(f"{text!r} is no job id", "an id is a UUID, as `procjobs submit` prints it", UNKNOWN_JOB)
    if not statuses:
        hint = "it may have been evicted some time after it ended; `procjobs jobs` lists the known jobs"
        raise Problem(f"job {text} is not known to {where}", hint, UNKNOWN_JOB)
    if len(statuses) > 1:
        ids = ", ".join(status.id for status in statuses[:3])
        raise Problem(f"{text} is part of {len(statuses)} job ids", f"give a longer part: {ids}", UNKNOWN_JOB)
    return statuses[0]
