"""`host` and `check`: how large a pool is on this host, which settings hold and where they come from. Nothing is started."""

from __future__ import annotations

import os
from typing import Any

import click

from procjobs.cli import parameters, screen, text
from procjobs.cli.problems import FAILED, OK, USAGE, Problem
from procjobs.client.running_pool import RunningPool, find_pool
from procjobs.errors import ConfigurationError, ProcjobsError
from procjobs.host import footprints, hostinfo, observe, rundir
from procjobs.host.hostinfo import CpuFacts, MemoryFacts
from procjobs.host.sizing import Footprint
from procjobs.settings import file as settings_file
from procjobs.settings.file import SettingsFile
from procjobs.settings.keys import SETTINGS
from procjobs.settings.plan import Plan, host_names, is_unused, make_plan
from procjobs.shared.config import check_pool_name
from procjobs.shared.store_address import hide_password

_COLUMNS = ("SETTING", "VALUE", "FROM")


@click.command(short_help="How many workers this host is good for, and why.")
@click.option("--pool", "-p", metavar="NAME", shell_complete=parameters.complete_pools, help="What holds for this pool.")
@parameters.common
def host(pool: str | None, directory: str | None, as_json: bool) -> int:
    """Show the CPUs and the memory that can be used here, what workers=auto makes of them, and which settings hold.

    Without --pool it is what holds for a pool that has no settings of its own.
    """
    try:
        plan = make_plan(None if pool is None else check_pool_name(pool), {})
    except ConfigurationError as error:
        raise Problem(str(error), "`procjobs check` shows all that is wrong", USAGE) from None
    cpus, memory, footprint = hostinfo.read_cpu_facts(), hostinfo.read_memory_facts(), footprints.recall(pool)
    running, held_bytes = _look_at(pool, directory)
    size = plan.choose_size(cpus, memory, footprint, held_bytes=held_bytes, is_private=False)
    path = settings_file.find_file()
    if as_json:
        usable_bytes = hostinfo.usable_memory_bytes(memory)
        screen.write_json(
            {
                "host": host_names(),
                "cpus": {**cpus._asdict(), "usable": size.cpus, "bound": size.bound.kind},
                "memory": {**memory._asdict(), "usable_bytes": usable_bytes, "held_bytes": held_bytes},
                "file": path,
                "pool": pool,
                "running_workers": running,
                "footprint": footprint._asdict(),
                "auto": {**size._asdict(), "bound": size.bound._asdict(), "explanation": size.explain()},
                "workers": plan.values["workers"],
                "settings": _describe(plan),
            }
        )
        return OK
    screen.write(f"host:    {', '.join(host_names())}")
    screen.write(f"cpus:    {_tell_cpus(cpus)}")
    screen.write(f"memory:  {_tell_memory(memory, held_bytes)}")
    screen.write(f"worker:  {_tell_footprint(footprint)}")
    screen.write(f"reserve: {text.count(size.reserve, 'CPU')}, {size.reserve_rule}")
    screen.write(f"auto:    {size.explain()}")
    screen.write(f"file:    {path or _tell_no_file()}")
    if running is not None:
        screen.write(f"running: {text.count(running, 'worker')}; who starts a pool decides, `procjobs resize` changes it")
    screen.write(f"pool:    {pool or 'any without settings of its own'}: {_tell_workers(plan, path)}")
    if plan.origins:
        screen.write()
        _write_settings(plan, path=path)
    return OK


def _look_at(pool: str | None, directory: str | None) -> tuple[int | None, int]:
    """Return how many workers a pool has now, and what its processes hold; (None, 0) if it does not run."""
    place = None if pool is None else find_pool(pool, directory)
    if place is None or not rundir.is_held(place.lock):
        return None, 0
    try:
        with RunningPool(place) as found:
            stats = found.stats()
    except ProcjobsError:  # it has just ended, or is of another release
        return None, 0
    return stats.workers, observe.tree_private(stats.supervisor_pid)


def _tell_cpus(cpus: CpuFacts) -> str:
    cores = "" if cpus.cores is None else f"; {text.count(cpus.cores, 'core')}"
    affinity = "" if cpus.affinity is None or cpus.affinity == cpus.logical else f"; affinity {cpus.affinity}"
    quota = f"; cgroup quota {min(cpus.cgroup_quotas):g}" if cpus.cgroup_quotas else "; no cgroup quota"
    return f"{cpus.logical} on the host{affinity}{cores}{quota}: {hostinfo.usable_cpus(cpus)} can be used"


def _tell_memory(memory: MemoryFacts, held_bytes: int) -> str:
    limit = memory.cgroup_limit_bytes
    bound = "no cgroup limit" if limit is None else f"cgroup limit {text.size(limit)}"
    held = f", and {text.size(held_bytes)} that the pool has already" if held_bytes else ""
    usable = text.size(hostinfo.usable_memory_bytes(memory))
    return f"{text.size(memory.total_bytes)} on the host; {bound}: {usable} can be used{held}, a tenth is left to others"


def _tell_footprint(footprint: Footprint) -> str:
    if not footprint.runs:
        return f"{text.size(footprint.worker_bytes)} each, as long as none of the pool has been seen at work"
    shared = f", beside {text.size(footprint.shared_bytes)} that all share"
    runs = "its last run" if footprint.runs == 1 else f"its last {footprint.runs} runs"
    return f"{text.size(footprint.worker_bytes)} each{shared}: the most that one took in {runs}"


def _tell_workers(plan: Plan, path: str | None) -> str:
    where = "" if plan.origin("workers").kind == "default" else f", by {_shorten(plan, 'workers', path)}"
    return f"workers={_show('workers', plan.values['workers'])}{where}"


def _tell_no_file() -> str:
    if named := os.environ.get(settings_file.VARIABLE):
        return f"{'none' if named == os.devnull else named}, by {settings_file.VARIABLE}"
    return "none; procjobs.toml and [tool.procjobs] of pyproject.toml are looked for here and in the directories above"


# check ------------------------------------------------------------------------------------------------------------


@click.command(short_help="Whether the settings are right, and what comes from where.")
@click.argument("file", metavar="[FILE]", required=False, type=click.Path())
@click.option("--all", "show_all", is_flag=True, help="Show the defaults too.")
@parameters.common
def check(file: str | None, show_all: bool, directory: str | None, as_json: bool) -> int:
    """Check the settings FILE, or the one that a program started here would find, and the variables PROCJOBS_...

    Shows for each pool what holds on this host, and where it comes from. Exit code 1 if anything is wrong.
    """
    del directory  # settings have none
    found, problems = _read(file)
    plans: list[tuple[str | None, Plan]] = []
    if not problems:
        for pool in [*(found.pools() if found is not None else ()), None]:
            try:
                plans.append((pool, make_plan(pool, {}, file=found or SettingsFile("", (), ()))))
            except ConfigurationError as error:
                problems.append(str(error))
    problems = list(dict.fromkeys(problems))
    path = file if found is None else found.path
    if as_json:
        pools = [{"pool": pool, "settings": _describe(plan, show_all=show_all)} for pool, plan in plans]
        screen.write_json({"ok": not problems, "file": path, "host": host_names(), "problems": problems, "pools": pools})
        return FAILED if problems else OK
    screen.write(f"file: {path or _tell_no_file()}")
    screen.write(f"host: {', '.join(host_names())}")
    for pool, plan in plans:
        others = "every other pool" if len(plans) > 1 else "every pool"
        screen.write(f"\n{others if pool is None else f'pool {pool}'}")
        _write_settings(plan, show_all=show_all, path=path)
    screen.write()
    for problem in problems:
        screen.write(problem)
    screen.write(text.count(len(problems), "problem") if problems else "all is well")
    return FAILED if problems else OK


def _read(file: str | None) -> tuple[SettingsFile | None, list[str]]:
    """Return the settings file, and what is wrong in it."""
    if file is not None and not os.path.exists(file):
        raise Problem(f"there is no file {file!r}", "without a name the one that a program would find is checked", USAGE)
    try:
        path = settings_file.find_file() if file is None else os.path.abspath(file)
        found = None if path is None else settings_file.load_file(path)
    except ConfigurationError as error:
        return None, [str(error)]
    return found, [] if found is None else list(found.problems)


def _describe(plan: Plan, *, show_all: bool = False) -> list[dict[str, Any]]:
    return [
        {"setting": name, "value": _shown(plan.values[name]), "from": origin.where, "kind": origin.kind}
        for name, origin in ((name, plan.origin(name)) for name in SETTINGS)
        if show_all or name in plan.origins
    ]


def _shown(value: Any) -> Any:
    return hide_password(value) if isinstance(value, str) else value


def _write_settings(plan: Plan, *, show_all: bool = False, path: str | None = None) -> None:
    """Write the settings as a table; a file that was named above is not named in each line."""
    rows = []
    for row in _describe(plan, show_all=show_all):
        name = row["setting"]
        note = " (not used: workers is not auto)" if is_unused(plan, name) else ""
        rows.append([name, _show(name, row["value"]), f"{_shorten(plan, name, path)}{note}"])
    if rows:
        screen.write_rows(_COLUMNS, rows)
    else:
        screen.write("nothing is set")


def _shorten(plan: Plan, setting: str, path: str | None) -> str:
    """Return where a setting comes from, without the name of the file, which was written above."""
    return plan.origin(setting).where.removeprefix(f"{path} ")


def _show(setting: str, value: Any) -> str:
    """Return a value as a settings file has it, or nearly so."""
    if value is None:
        return "none"
    if setting == "workers" and isinstance(value, tuple):
        return f"{value[0]}-{value[1]}"
    if SETTINGS[setting].is_size:
        return text.size(value)
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "-"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
