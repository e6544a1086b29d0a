"""How a supervisor process begins and ends: from the descriptors its starter left it, to an empty directory.

    DESCRIPTOR
    0   JSON: name and base of the directory, settings, pid of the owner (private pools),
        whose the code to begin with is (pools in the foreground)
    3   the pool's lock, held already
    4   a pipe: nothing is written and it is closed when clients can connect, else why they never will
    5   for pools in the foreground: the specification of that code

A pool in the foreground is a service: its manager is told when it is ready, and its log goes to standard error too.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import traceback
from typing import Any

from procjobs.host import process, rundir
from procjobs.host.notify import notify_manager
from procjobs.shared.config import PoolSettings
from procjobs.supervisor.durable import started_attempts as begun
from procjobs.supervisor.log import Log
from procjobs.supervisor.supervisor import Supervisor

LOCK_FD, READY_FD, CODE_FD = 3, 4, 5
BACKLOG = 512


def main() -> None:
    """Run a supervisor to its end; the interpreter ends after it with status 0, or 1 if it failed."""
    with open(0, "rb", closefd=False) as file:
        boot = json.loads(file.read())
    process.unblock_signals()
    process.replace_standard_input()
    process.fill_missing_output()
    for fd in (LOCK_FD, READY_FD, *([CODE_FD] if boot.get("code") else [])):
        os.set_inheritable(fd, False)
    # It is not for workers to speak for the service, nor for a pool that a service has started in the background.
    address = os.environ.pop("NOTIFY_SOCKET", "")
    manager = address if boot.get("code") else ""
    directory = rundir.RunDir(boot["base"], boot["name"])
    try:
        supervisor, log = _prepare(directory, boot)
    except Exception:  # noqa: BLE001 - told to the starter, whose it is to raise
        os.write(READY_FD, traceback.format_exc().encode()[-60_000:])
        rundir.remove(directory)
        raise SystemExit(1) from None
    os.close(READY_FD)
    # A job is no part of a cycle. With a million of them queued, a look through all for cycles stops the pool for 0.2 s, and
    # one at every 700 new ones costs 3 % of all time.
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    notify_manager(manager, "READY=1")
    try:
        supervisor.run()
    except BaseException:
        log.echo = None  # the interpreter is about to print it
        log.write(f"the supervisor failed; this is a bug in procjobs:\n{traceback.format_exc()}")
        raise
    supervisor.close()
    log.close()
    rundir.remove_own(directory, LOCK_FD)
    if boot["owner_pid"] is None:  # last: a home directory may be on a network that does not answer
        from procjobs.host import footprints  # here, because a pool should be ready soon

        footprints.remember(directory.name, supervisor.crew.peaks)


def _prepare(directory: rundir.RunDir, boot: dict[str, Any]) -> tuple[Supervisor, Log]:
    process.become_subreaper()
    process.set_title("procjobs-super")
    mark = rundir.read_mark(directory)
    if mark is not None:  # its supervisor and template were killed together, and nobody has ended what jobs had started
        process.kill_marked(mark)
    settings = PoolSettings.from_json(boot["settings"])
    attempts = begun.look_back(directory) if settings.store is not None else {}
    rundir.make_fresh(directory)
    log = Log(directory.log)
    code = boot.get("code")
    if boot["owner_pid"] is None and code is None:
        process.redirect_output(log.fd)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(directory.socket)
    os.chmod(directory.socket, 0o600)
    listener.setblocking(False)
    supervisor = Supervisor(
        directory,
        settings,
        owner_pid=boot["owner_pid"],
        log=log,
        listener=listener,
        in_foreground=code is not None,
        begun=attempts,
    )
    listener.listen(BACKLOG)
    log.write(f"pool {directory.name}: supervisor {os.getpid()} is ready")
    rundir.write_mark(directory, supervisor.crew.mark)
    rundir.sweep_stale(directory.base, process.kill_marked, begun.keep)
    if code is not None:
        supervisor.templates.join(code["key"], code["executable"], CODE_FD).clients -= 1
    return supervisor, log
