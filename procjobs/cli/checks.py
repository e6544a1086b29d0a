"""The checks of `doctor`. Each check yields findings, and changes nothing on the host."""

from __future__ import annotations

import importlib.metadata
import os
import resource
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from procjobs.cli import text
from procjobs.client.running_pool import RunningPool, find_pools
from procjobs.errors import ProcjobsError
from procjobs.host import hostinfo, process, rundir, signature, sizing
from procjobs.settings.file import find_file
from procjobs.settings.plan import make_plan
from procjobs.shared.config import NICE
from procjobs.version import __version__

OK, WARN, FAIL = "ok", "warn", "fail"
_MIN_FILES: Final = 1024
_MIN_PROCESSES: Final = 256
_MIN_BYTES: Final = 64 * 2**20
_FEW_BYTES: Final = 8 * 2**20
_MIN_VERSIONS: Final = {"psutil": (5, 9), "cloudpickle": (3, 0)}


class Finding(NamedTuple):
    """The finding of a check; `advice` says how to solve a problem, and is empty if there is none."""

    check: str
    verdict: str
    detail: str
    advice: str = ""


def check_versions(_directory: str | None) -> Iterator[Finding]:
    """The versions of Python, procjobs, and the packages that it needs."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("versions", OK, f"procjobs {__version__}, Python {python}, Linux {os.uname().release}")
    for name, minimum in _MIN_VERSIONS.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("versions", FAIL, f"{name} is not installed", f"pip install '{name}>={_dotted(minimum)}'")
            continue
        is_enough = tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) >= minimum
        advice = "" if is_enough else f"pip install '{name}>={_dotted(minimum)}'"
        yield Finding("versions", OK if is_enough else FAIL, f"{name} {version}", advice)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def check_kernel(_directory: str | None) -> Iterator[Finding]:
    """The system calls that the supervisor needs: Linux, pidfd_open(2), memfd_create(2), subreapers."""
    try:
        process.check_platform()
    except OSError as error:
        yield Finding("kernel", FAIL, str(error))
        return
    try:
        os.close(os.pidfd_open(os.getpid()))
        yield Finding("kernel", OK, "pidfd_open works")
    except OSError as error:
        advice = "Linux 5.3 or later; in a container, a seccomp profile that allows pidfd_open"
        yield Finding("kernel", FAIL, f"pidfd_open: {error.strerror}", advice)
    try:
        os.close(os.memfd_create("procjobs"))
        yield Finding("kernel", OK, "memfd_create works")
    except OSError as error:
        advice = "large arguments are passed in unlinked files instead"
        yield Finding("kernel", WARN, f"memfd_create: {error.strerror}", advice)


def check_directory(directory: str | None) -> Iterator[Finding]:
    """The directory of new pools: its owner, its mode, its free space."""
    found = _existing_bases(directory)
    for base in found:
        mode = stat.S_IMODE(os.lstat(base).st_mode)
        if mode & 0o077:
            yield Finding("directory", WARN, f"{base} has mode {mode:o}: other users may enter it", f"chmod 700 {base}")
        if not os.access(base, os.W_OK | os.X_OK):
            yield Finding("directory", FAIL, f"{base} cannot be written", f"chmod 700 {base}")
    try:
        base, is_made = rundir.find_base(directory), False
        is_made = base not in found
    except ProcjobsError as error:
        yield Finding("directory", FAIL, str(error), "set XDG_RUNTIME_DIR to a directory that you own, best on a tmpfs")
        return
    yield Finding("directory", OK, f"pools are in {base}")
    yield _check_room(base)
    if is_made:
        signature.remove_if_empty(base)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and directory is None and not base.startswith(runtime):
        advice = f"it needs a directory with mode 700 and your uid {os.getuid()} as its owner; does it exist?"
        yield Finding("directory", WARN, f"XDG_RUNTIME_DIR={runtime} cannot be used", advice)


def _existing_bases(directory: str | None) -> list[str]:
    try:
        return rundir.existing_bases(directory)
    except ProcjobsError:  # `find_base` refuses it too, and says why
        return []


def _check_room(base: str) -> Finding:
    free = shutil.disk_usage(base).free
    verdict = FAIL if free < _FEW_BYTES else WARN if free < _MIN_BYTES else OK
    advice = "" if verdict == OK else "free some space, or give the container a larger /dev/shm (docker run --shm-size)"
    return Finding("room", verdict, f"{text.size(free)} free in {base}", advice)


def check_limits(_directory: str | None) -> Iterator[Finding]:
    """The limits of the process: clients, workers and large payloads need descriptors, and workers are processes."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_enough = files == resource.RLIM_INFINITY or files >= _MIN_FILES
    advice = "" if is_enough else "raise it: LimitNOFILE= in systemd, ulimit -Hn, docker run --ulimit nofile="
    yield Finding("limits", OK if is_enough else WARN, f"open files: at most {_limit(files)}", advice)
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    is_enough = processes == resource.RLIM_INFINITY or processes >= _MIN_PROCESSES
    advice = "" if is_enough else "raise it: LimitNPROC= in systemd, ulimit -u"
    yield Finding("limits", OK if is_enough else WARN, f"processes of this user: at most {_limit(processes)}", advice)


def _limit(value: int) -> str:
    return "without limit" if value == resource.RLIM_INFINITY else str(value)


def check_capacity(_directory: str | None) -> Iterator[Finding]:
    """CPUs and memory, of the host and of the control group."""
    cpus = hostinfo.read_cpu_facts()
    quota = f", a cgroup quota of {min(cpus.cgroup_quotas):g}" if cpus.cgroup_quotas else ""
    memory = hostinfo.read_memory_facts()
    workers = sizing.choose_size(cpus, memory, nice=NICE).workers
    yield Finding("cpu", OK, f"{cpus.logical} on the host{quota}: workers=auto is {workers} (see `procjobs host`)")
    usable = hostinfo.usable_memory_bytes(memory)
    limit = memory.cgroup_limit_bytes
    bound = f", a cgroup limit of {text.size(limit)}" if limit is not None else ""
    verdict = WARN if usable < workers * _MIN_BYTES else OK
    advice = "" if verdict == OK else "fewer workers, max_rss= for jobs, or more memory"
    yield Finding("memory", verdict, f"{text.size(usable)} can be used of {text.size(memory.total_bytes)}{bound}", advice)


def check_settings(_directory: str | None) -> Iterator[Finding]:
    """The settings file that a program started here would find, and the variables PROCJOBS_..."""
    try:
        path = find_file()
        make_plan(None, {})
    except ProcjobsError as error:
        yield Finding("settings", FAIL, str(error), "`procjobs check` lists all errors")
    else:
        yield Finding("settings", OK, path or "no settings file")


def check_pools(directory: str | None) -> Iterator[Finding]:
    """Each pool of this user: whether its supervisor lives, answers, and runs this release."""
    pools = find_pools(directory) if _existing_bases(directory) else []
    if not pools:
        yield Finding("pools", OK, "no pool is running")
    names = [pool.name for pool in pools]
    for place in pools:
        yield from _check_pool(place)
        if names.count(place.name) > 1:
            advice = "they were started with different values of XDG_RUNTIME_DIR; use one value, and stop one pool"
            yield Finding("pools", WARN, f"there are two pools {place.name!r}: one is {place.path}", advice)


def _check_pool(place: rundir.RunDir) -> Iterator[Finding]:
    name = place.name
    if not rundir.is_held(place.lock):
        advice = f"`procjobs start {name}` starts the pool again; any pool that starts removes the directory"
        yield Finding("pools", WARN, f"{name}: its supervisor was killed and has left {place.path}", advice)
        return
    # A private pool is not asked: it belongs to its owner, which runs the same release.
    is_private = name.startswith(rundir.PRIVATE_PREFIX)
    try:
        with RunningPool(place) as pool:
            pid, problem = pool.stats().supervisor_pid, pool.stats().problem
            version = __version__ if is_private else pool.welcome().get("version", "of another release")
    except ProcjobsError as error:
        if not rundir.is_held(place.lock):
            return  # the pool has ended just now
        advice = f"if it is stopped, kill -CONT it; if it runs another release, stop and start it again; see {place.log}"
        yield Finding("pools", FAIL, f"{name}: {error}", advice)
        return
    if version != __version__:
        advice = f"procjobs stop {name}, and start it again"
        yield Finding("pools", FAIL, f"{name}: supervisor {pid} runs procjobs {version}", advice)
    if problem:
        yield Finding("pools", FAIL, f"{name} cannot run jobs: {text.one_line(problem)}", f"see {place.log}")
    elif version == __version__:
        yield Finding("pools", OK, f"{name}: supervisor {pid} answers")


CHECKS: Final[tuple[Callable[[str | None], Iterator[Finding]], ...]] = (
    check_versions,
    check_kernel,
    check_directory,
    check_limits,
    check_capacity,
    check_settings,
    check_pools,
)
