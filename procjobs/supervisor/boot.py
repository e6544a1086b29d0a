"""How a supervisor process begins and ends: from the descriptors its starter left it, to an empty directory.

    DESCRIPTOR
    0   JSON: name and base of the directory, settings, pid of the owner (private pools),
        key and interpreter of the code to begin with (pools in the foreground)
    3   the pool's lock, held already
    4   a pipe: STARTED when clients can connect, else why they never will; it is closed then. For pools in the foreground
        standard error, for the latter
    5   for pools in the foreground: the specification of that code

A pool in the foreground is a service: its manager is told when it is ready, and its log goes to standard error too.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import socket
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from procjobs.errors import ConfigurationError
from procjobs.host import descriptors, powers, process, rundir, shortages, streams, titles
from procjobs.host.loop import Loop
from procjobs.host.notify import notify_manager
from procjobs.shared.config import PoolSettings
from procjobs.shared.hello import STARTED
from procjobs.shared.table.state_writer import count_rows, file_bytes
from procjobs.shared.visible import visible
from procjobs.store import started_attempts
from procjobs.supervisor.clients.hand_over import pass_on_lock
from procjobs.supervisor.composition import Ground, compose
from procjobs.supervisor.log import Log
from procjobs.supervisor.supervisor import SIGNALS, Supervisor
from procjobs.supervisor.workers.console import Console

LOCK_FD, READY_FD, CODE_FD = 3, 4, 5
BACKLOG = 512
_LOST = 75
"""The exit status of a supervisor whose jobs are another one's: EX_TEMPFAIL, a service manager may start it again."""


def main() -> None:
    """Run a supervisor to its end; the interpreter ends after it with status 0, or 1 if it failed."""
    with open(0, "rb", closefd=False) as file:
        boot = json.loads(file.read())
    process.unblock_signals()
    streams.replace_standard_input()
    streams.fill_missing_output()
    passed = (LOCK_FD, READY_FD, *([CODE_FD] if boot.get("code") else []))
    descriptors.close_inherited(passed[-1] + 1)
    for fd in passed:
        os.set_inheritable(fd, False)
    # Workers do not speak for the service; nor does a pool that a service has started in the background.
    address = os.environ.pop("NOTIFY_SOCKET", "")
    manager = address if boot.get("code") else ""
    directory = rundir.RunDir(boot["base"], boot["name"])
    try:
        supervisor, log = _prepare(directory, boot)
    except Exception as error:  # noqa: BLE001 - it goes to the starter, which raises it
        os.write(READY_FD, f"{_explain(error, directory, boot)}\n".encode()[-60_000:])
        rundir.remove(directory)
        raise SystemExit(1) from None
    _tell_started(boot)
    # A job is no part of a cycle. With a million of them queued, a look through all for cycles stops the pool for 0.2 s, and
    # one at every 700 new ones costs 3 % of all time.
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    notify_manager(manager, "READY=1")
    try:
        if not supervisor.run():
            supervisor.abdicate()
            raise SystemExit(_LOST)
    except SystemExit:
        raise
    except BaseException:
        log.stop_echo()  # the interpreter is about to print it
        log.write_warning(f"the supervisor failed; this is a bug in procjobs:\n{traceback.format_exc()}")
        raise
    successor = supervisor.take_successor()
    supervisor.close()
    log.close()
    _give_up(directory, successor)
    if boot["owner_pid"] is None:  # last: a home directory may be on a network that does not answer
        from procjobs.host import footprints  # here, because a pool should be ready soon

        footprints.remember(directory.name, supervisor.peaks)


def _tell_started(boot: dict[str, Any]) -> None:
    """Tell the starter that clients can connect; it may have gone by now."""
    if boot.get("code") is None:
        with contextlib.suppress(BrokenPipeError):
            os.write(READY_FD, STARTED)
    os.close(READY_FD)


def _give_up(directory: rundir.RunDir, successor: socket.socket | None) -> None:
    """Remove the pool's files; the lock goes to the successor, if there is one."""
    if successor is not None and rundir.remove_own_directory(directory, LOCK_FD) and pass_on_lock(successor, LOCK_FD):
        return
    rundir.remove_own(directory, LOCK_FD)


def _prepare(directory: rundir.RunDir, boot: dict[str, Any]) -> tuple[Supervisor, Log]:
    process.become_subreaper()
    process.set_title("procjobs-super")
    titles.show_title(f"procjobs: supervisor of {directory.name}")
    mark = rundir.read_mark(directory)
    if mark is not None:  # supervisor and template were killed together: processes that jobs had started may still run
        process.kill_marked(mark)
    has_store = boot["settings"].get("store") is not None
    started = started_attempts.look_back(directory) if has_store else started_attempts.StartedAttempts(directory, {})
    rundir.make_fresh(directory)
    ground = _lay_ground(directory, boot)
    log, code = ground.log, boot.get("code")
    if boot["owner_pid"] is None and code is None:
        streams.redirect_output(log.fd)
    listener = _bind(directory.socket)
    parts = compose(ground, listener, started)
    supervisor = Supervisor(ground, parts)
    listener.listen(BACKLOG)
    for missing in powers.find_missing():
        log.write(str(missing))
    log.write(f"pool {directory.name}: supervisor {os.getpid()} is ready")
    rundir.write_mark(directory, parts.mark)
    rundir.sweep_stale(directory.base, process.kill_marked, started_attempts.keep)
    if code is not None:
        parts.generations.join(code["key"], code["executable"], CODE_FD).generation.clients -= 1
    parts.hand_over.inherit()
    return supervisor, log


def _explain(error: Exception, directory: rundir.RunDir, boot: dict[str, Any]) -> str:
    rows = count_rows(PoolSettings.from_json(boot["settings"]).max_queued)
    of_file, at_first = file_bytes(rows)
    is_too_large = isinstance(error, OSError) and error.errno == errno.EFBIG
    text = shortages.explain(error, directory.base, needed_bytes=of_file if is_too_large else at_first)
    if isinstance(error, OSError) and text == str(error):  # a file system that lacks sockets, or shared mappings
        text += f". Is {directory.base} on a tmpfs or a local disk? If not, set XDG_RUNTIME_DIR to a directory that is"
    return f"pool {directory.name!r} could not start: {text}" if boot.get("code") else text


def _lay_ground(directory: rundir.RunDir, boot: dict[str, Any]) -> Ground:
    settings = PoolSettings.from_json(boot["settings"])
    in_foreground, owner_pid = bool(boot.get("code")), boot["owner_pid"]
    loop = Loop(signals=SIGNALS)
    console = Console(loop, directory.path) if in_foreground or owner_pid is not None else None
    echo = _echo(console) if console is not None and in_foreground else None
    log = Log(directory.log, echo=echo) if settings.log is None else _log_elsewhere(directory, settings.log, echo)
    return Ground(loop, directory, settings, log, console, owner_pid, in_foreground)


def _log_elsewhere(directory: rundir.RunDir, path: str, echo: Callable[[bytes], None] | None) -> Log:
    """Open a log that outlives the pool, with a link to it where the log of a pool is."""
    try:
        log = Log(path, echo=echo)
    except OSError as error:
        raise ConfigurationError(f"log={path!r} cannot be written: {error.strerror}") from None
    os.symlink(path, directory.log)
    return log


def _echo(console: Console) -> Callable[[bytes], None]:
    """Return how the log goes to standard error: without the control characters of jobs, if that is a terminal."""
    write = partial(console.write, 2)
    return (lambda lines: write(visible(lines.decode(errors="replace")).encode())) if os.isatty(2) else write


def _bind(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.setblocking(False)
    return listener
