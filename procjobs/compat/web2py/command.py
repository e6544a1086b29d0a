"""Workers from the command line, past web2py.py: `procjobs web2py -K app:group,app2:group2`.

An application is a folder of web2py's `applications`, or, outside of web2py, a module that makes a Scheduler when it is
imported.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from procjobs.compat.web2py.alias import install
from procjobs.compat.web2py.context import find_current
from procjobs.errors import ConfigurationError

_WORK: Final = "from procjobs.compat.web2py.command import work_for_parent; work_for_parent()"
_IN_WEB2PY: Final = "from procjobs.compat.web2py.command import loop; loop({!r}, {!r})"


class Application(NamedTuple):
    """An application that gets a worker, and the groups whose tasks that takes; none: those of its Scheduler."""

    name: str
    groups: tuple[str, ...]


def parse_applications(texts: Sequence[str]) -> list[Application]:
    """Return the applications of `app:group1:group2,app2`; raise ConfigurationError if a name is missing."""
    found = []
    for text in ",".join(texts).split(","):
        name, *groups = [part.strip() for part in text.split(":")]
        if not name or not all(groups):
            raise ConfigurationError(f"-K takes APP[:GROUP...][,APP...], such as shop:main:mail; {text!r} lacks a name")
        found.append(Application(name, tuple(groups)))
    return found


def run_workers(applications: Sequence[Application], folder: str) -> int:
    """Run a worker for each application until it ends; return the exit code: 0 if all have ended well.

    One alone is this process. Of several each is a process of its own, which ends when this process does.
    Raise ConfigurationError if there is no such application, or it makes no Scheduler.
    """
    if len(applications) == 1:
        work(applications[0], folder)
        return 0
    for application in applications:
        _check(application, folder)
    reader, writer = os.pipe()
    command = [sys.executable, "-c", _WORK, str(reader), folder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    children = [
        subprocess.Popen([*command, name, *groups], pass_fds=[reader], env=environment)  # noqa: S603 - this program
        for name, groups in applications
    ]
    os.close(reader)

    def end(*_: Any) -> None:
        for child in children:
            child.terminate()

    previous = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return int(any([child.wait() for child in children]))  # noqa: C419 - all are waited for
    finally:
        os.close(writer)
        for number, handler in previous.items():
            signal.signal(number, handler)


def work_for_parent() -> None:
    """Be a worker for an application, from the arguments of this process, until the parent has ended."""
    lifeline, folder, name, *groups = sys.argv[1:]

    def watch() -> None:
        os.read(int(lifeline), 1)  # returns when nobody has the other end any more
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    try:
        work(Application(name, tuple(groups)), folder)
    except ConfigurationError as error:
        raise SystemExit(f"procjobs web2py: {error}") from None


def work(application: Application, folder: str) -> None:
    """Be a worker for an application; return when its loop does."""
    is_web2py = _check(application, folder)
    os.chdir(folder)
    sys.path[:] = [os.getcwd(), *(entry for entry in sys.path if entry not in {"", os.getcwd()})]
    if not is_web2py:
        importlib.import_module(application.name)
        loop(*application)
        return
    install()
    from gluon.shell import run

    code = _IN_WEB2PY.format(*application)
    run(application.name, plain=True, import_models=True, python_code=code, scheduler_job=True)


def loop(name: str, groups: Sequence[str]) -> None:
    """Call the loop of the Scheduler that an application has made; raise SystemExit if it has made none."""
    scheduler = getattr(find_current(), "_scheduler", None)
    if scheduler is None:
        raise SystemExit(f"procjobs web2py: the application {name!r} makes no Scheduler when it is loaded")
    if groups:
        vars(scheduler)["group_names"] = list(groups)
    scheduler.loop()


def _check(application: Application, folder: str) -> bool:
    """Return whether an application is one of web2py; raise ConfigurationError if there is no such application."""
    if Path(folder, "applications", application.name).is_dir():
        return True
    parts = application.name.split(".")
    if Path(folder, *parts).is_dir() or Path(folder, *parts[:-1], f"{parts[-1]}.py").is_file():
        return False
    raise ConfigurationError(
        f"there is no application {application.name!r} in {folder}: neither a folder applications/{application.name}, as "
        "web2py has, nor a module of this name; --folder names another folder"
    )
