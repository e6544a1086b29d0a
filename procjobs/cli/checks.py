"""The checks of `doctor`. Each check yields findings, and changes nothing on the host."""

from __future__ import annotations

import fcntl
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
from procjobs.host import hostinfo, powers, process, rundir, signature, sizing
from procjobs.settings.file import find_file
from procjobs.settings.plan import make_plan
from procjobs.shared.config import NICE, PoolSettings
from procjobs.shared.state_directory import find_state_directory
from procjobs.shared.table.state_writer import count_rows, file_bytes
from procjobs.version import __version__

OK, WARN, FAIL = "ok", "warn", "fail"
_MIN_FILES: Final = 1024
_MIN_PROCESSES: Final = 256
_MIN_ADDRESSES: Final = 2**30
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
    """What pools ask of the kernel, and a container, a service manager or an old kernel may refuse."""
    try:
        process.check_platform()
    except OSError as error:
        yield Finding("kernel", FAIL, str(error))
        return
    for power, missing in powers.try_powers():
        if missing is None:
            yield Finding("kernel", OK, f"{power.name} works")
        else:
            verdict = FAIL if power.is_vital else WARN
            yield Finding("kernel", verdict, f"{power.name}: {missing.why}: {power.effect}", power.advice)


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
    yield from _check_locks(base)
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


def _check_locks(base: str) -> Iterator[Finding]:
    fd = os.open(base, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        advice = "set XDG_RUNTIME_DIR or directory= to a directory on a tmpfs or a local disk"
        yield Finding("directory", FAIL, f"{base} is on a file system without locks (flock: {error.strerror})", advice)
    finally:
        os.close(fd)


def check_state(_directory: str | None) -> Iterator[Finding]:
    """The directory for files that outlive a pool: those of store=True, and the memory that workers took."""
    directory = find_state_directory()
    advice = "store=True needs it: set XDG_STATE_HOME to a directory of yours that lasts, or give store= a URL"
    if directory is None:
        yield Finding("state", WARN, f"user {os.geteuid()} has no home directory (HOME={os.environ.get('HOME')!r})", advice)
        return
    nearest = directory
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)
    if os.access(nearest, os.W_OK | os.X_OK):
        yield Finding("state", OK, f"files that outlive a pool are in {directory}")
    else:
        yield Finding("state", WARN, f"{directory} cannot be made: {nearest} is not writable", advice)


def check_limits(_directory: str | None) -> Iterator[Finding]:
    """The limits of the process: clients, workers and large payloads need descriptors, and workers are processes."""
    table_bytes, _ = file_bytes(count_rows(PoolSettings(workers=(1, 1)).max_queued))
    for what, kind, enough, vital, remedy in (
        ("open files", resource.RLIMIT_NOFILE, _MIN_FILES, 48, "LimitNOFILE=, ulimit -Hn, docker run --ulimit nofile="),
        ("processes of this user", resource.RLIMIT_NPROC, _MIN_PROCESSES, 8, "LimitNPROC=, ulimit -u"),
        ("bytes of a file", resource.RLIMIT_FSIZE, table_bytes, table_bytes, "LimitFSIZE=, ulimit -f; or lower max_queued"),
        ("bytes of addresses", resource.RLIMIT_AS, _MIN_ADDRESSES, 2 * table_bytes, "LimitAS=, ulimit -v"),
    ):
        value = resource.getrlimit(kind)[kind == resource.RLIMIT_NOFILE]  # the supervisor raises its number of files
        has_none = value == resource.RLIM_INFINITY
        verdict = OK if has_none or value >= enough else WARN if value >= vital else FAIL
        shown = "without limit" if has_none else f"at most {text.size(value) if 'bytes' in what else value}"
        yield Finding("limits", verdict, f"{what}: {shown}", "" if verdict == OK else f"raise it: {remedy}")
    yield from _check_group_processes()


def _check_group_processes() -> Iterator[Finding]:
    """The bound of a container on its processes and threads; the smallest one holds."""
    found = []
    for directory in hostinfo.group_directories("pids"):
        bound, used = (hostinfo.read_lines(directory, name)[0] for name in ("pids.max", "pids.current"))
        if bound.isdigit() and used.isdigit():
            found.append((int(bound) - int(used), int(bound)))
    if found:
        free, limit = min(found)
        verdict = FAIL if free < 8 else WARN if free < _MIN_PROCESSES else OK
        advice = "" if verdict == OK else "raise it: docker run --pids-limit, TasksMax=, podPidsLimit of Kubernetes"
        yield Finding("limits", verdict, f"processes and threads of the control group: {free} more, at most {limit}", advice)


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
        yield Finding("pools", FAIL, f"{name} cannot run jobs: {text.first_line(problem)}", f"see {place.log}")
    elif version == __version__:
        yield Finding("pools", OK, f"{name}: supervisor {pid} answers")


CHECKS: Final[tuple[Callable[[str | None], Iterator[Finding]], ...]] = (
    check_versions,
    check_kernel,
    check_directory,
    check_state,
    check_limits,
    check_capacity,
    check_settings,
    check_pools,
)
