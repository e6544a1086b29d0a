"""Checks of the schedules of a settings file, for `procjobs check`: whether functions can be imported, and their zone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from procjobs.client.launcher import interpreter
from procjobs.host.observe import MARK
from procjobs.schedules.cron import Cron

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from procjobs.settings.plan import Plan
    from procjobs.settings.schedule_tables import FileSchedule

_TIMEOUT: Final = 60.0
_PROGRAM: Final = """if True:
    import json, os, sys
    answer = os.dup(1)
    os.dup2(2, 1)  # nothing that a module prints is an answer
    sys.path[:] = json.loads(sys.argv[1])
    from procjobs.schedules.named import find_function
    for target in json.loads(sys.argv[2]):
        try:
            find_function(target)
            problem = ''
        except Exception as error:
            problem = f'{type(error).__name__}: {error}'
        os.write(answer, json.dumps([target, problem]).encode() + b'\\n')
    os._exit(0)
"""


def find_problems(schedules: Iterable[FileSchedule]) -> list[str]:
    """Return which of these schedules call functions that cannot be imported here, in sentences.

    The modules are imported in another process, which ends after it: they may do anything, and start no pool there.
    """
    found = list(schedules)
    problems = _import({schedule.target: None for schedule in found}) if found else {}
    return [
        f"{schedule.where} call={schedule.target!r}: {problems[schedule.target]}"
        for schedule in found
        if problems[schedule.target]
    ]


def _import(targets: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with each function "module:function", empty text where nothing is."""
    path = [os.getcwd(), *sys.path]
    command = [interpreter(), "-c", _PROGRAM, json.dumps(path), json.dumps(list(targets))]
    # A process of a pool connects to no pool of its own accord, and starts none.
    environment = {**os.environ, MARK: "check", "PROCJOBS_START": "false"}
    with tempfile.TemporaryFile() as answers:  # no pipe: a process that a module leaves behind would hold it open
        try:
            done = subprocess.run(  # noqa: S603 - the interpreter, and the application's own modules
                command, stdin=subprocess.DEVNULL, stdout=answers, stderr=subprocess.DEVNULL, env=environment,
                timeout=_TIMEOUT, check=False,
            )  # fmt: skip
            end = f"its import has ended the process, with exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            end = f"its import takes more than {_TIMEOUT:g} s"
        answers.seek(0)
        told: dict[str, str] = dict(map(json.loads, answers.read().splitlines()))
    untold = [target for target in targets if target not in told]
    left = "it was not tried, since the import of another one ended the process"
    return {**told, **dict.fromkeys(untold, left), **dict.fromkeys(untold[:1], end)}


def find_notes(plan: Plan) -> list[str]:
    """Return what is worth a look in the schedules of a pool, in sentences: zones, and wishes that are not met."""
    notes = plan.describe_misfits()
    zone = _own_zone()
    for one in (plan.schedules or {}).values():
        if zone and not one.has_zone and isinstance(one.call.schedule.rule, Cron):
            notes.append(f"{one.where} has no tz: its times are UTC, and this host is in {zone}. Set tz to make it plain")
    return notes


def _own_zone() -> str:
    """Return the zone of this host, empty text if that is UTC at all times of the year."""
    year = datetime.now().astimezone().year
    offsets = [datetime(year, month, 1).astimezone().utcoffset() for month in (1, 4, 7, 10)]
    if not any(offsets):
        return ""
    linked = os.path.realpath("/etc/localtime").rpartition("zoneinfo/")
    return os.environ.get("TZ", "").lstrip(":") or (linked[2] if linked[1] else datetime.now().astimezone().tzname() or "")
