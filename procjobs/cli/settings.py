"""`host` and `check`: the size of a pool on this host, its settings, and where each setting comes from."""

from __future__ import annotations

import os
from typing import Any

import click

from procjobs.cli import parameters, schedule_checks, screen, text
from procjobs.cli.problems import FAILED, OK, USAGE, Problem
from procjobs.client.running_pool import RunningPool, find_pool
from procjobs.errors import ConfigurationError, ProcjobsError
from procjobs.host import footprints, hostinfo, observe, rundir
from procjobs.host.hostinfo import CpuFacts, MemoryFacts
from procjobs.host.sizing import Footprint
from procjobs.settings.file import VARIABLE, SettingsFile, find_file, load_file
from procjobs.settings.keys import SETTINGS
from procjobs.settings.plan import Plan, host_names, is_unused, make_plan
from procjobs.settings.shown import show
from procjobs.shared.config import check_pool_name
from procjobs.shared.passwords import hide

_COLUMNS = ("SETTING", "VALUE", "FROM")


@click.command(short_help="Show how many workers workers=auto gives here, and why.")
@click.option("--pool", "-p", metavar="NAME", shell_complete=parameters.complete_pools, help="Show this pool's settings.")
@parameters.common
def host(pool: str | None, directory: str | None, as_json: bool) -> int:
    """Show the usable CPUs and memory of this host, the number of workers that workers=auto gives, and the settings.

    Without --pool the settings are those of a pool without settings of its own.
    """
    try:
        plan = make_plan(None if pool is None else check_pool_name(pool), {})
    except ConfigurationError as error:
        raise Problem(str(error), "`procjobs check` lists all errors", USAGE) from None
    cpus, memory, footprint = hostinfo.read_cpu_facts(), hostinfo.read_memory_facts(), footprints.recall(pool)
    running, held_bytes = _read_running_pool(pool, directory)
    size = plan.choose_size(cpus, memory, footprint, held_bytes=held_bytes, is_private=False)
    path = find_file()
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
                "settings": _settings_documents(plan),
            }
        )
        return OK
    screen.write(f"host:    {', '.join(host_names())}")
    screen.write(f"cpus:    {_cpus_text(cpus)}")
    screen.write(f"memory:  {_memory_text(memory, held_bytes)}")
    screen.write(f"worker:  {_footprint_text(footprint)}")
    screen.write(f"reserve: {text.count(size.reserve, 'CPU')}, {size.reserve_rule}")
    screen.write(f"auto:    {size.explain()}")
    screen.write(f"file:    {path or _no_file_text()}")
    if running is not None:
        rule = "settings take effect at the next start, `procjobs resize` at once"
        screen.write(f"running: {text.count(running, 'worker')}; {rule}")
    screen.write(f"pool:    {pool or 'any without settings of its own'}: {_workers_text(plan, path)}")
    if plan.origins:
        screen.write()
        _write_settings(plan, path=path)
    return OK


def _read_running_pool(pool: str | None, directory: str | None) -> tuple[int | None, int]:
    """Return the number of workers of a running pool, and the bytes that its processes hold; (None, 0) if none runs."""
    place = None if pool is None else find_pool(pool, directory)
    if place is None or not rundir.is_held(place.lock):
        return None, 0
    try:
        with RunningPool(place) as found:
            stats = found.stats()
    except ProcjobsError:  # the pool has just ended, or is of another release
        return None, 0
    return stats.workers, observe.tree_private(stats.supervisor_pid)


def _cpus_text(cpus: CpuFacts) -> str:
    cores = "" if cpus.cores is None else f"; {text.count(cpus.cores, 'core')}"
    affinity = "" if cpus.affinity is None or cpus.affinity == cpus.logical else f"; affinity {cpus.affinity}"
    quota = f"; cgroup quota {min(cpus.cgroup_quotas):g}" if cpus.cgroup_quotas else "; no cgroup quota"
    return f"{cpus.logical} on the host{affinity}{cores}{quota}: {hostinfo.usable_cpus(cpus)} can be used"


def _memory_text(memory: MemoryFacts, held_bytes: int) -> str:
    limit = memory.cgroup_limit_bytes
    bound = "no cgroup limit" if limit is None else f"cgroup limit {text.size(limit)}"
    held = f", and {text.size(held_bytes)} that the pool has already" if held_bytes else ""
    usable = text.size(hostinfo.usable_memory_bytes(memory))
    whole = f"{text.size(memory.total_bytes)} on the host"
    return f"{whole}; {bound}: {usable} can be used{held}, a tenth is left to other programs"


def _footprint_text(footprint: Footprint) -> str:
    if not footprint.runs:
        return f"{text.size(footprint.worker_bytes)} each, until a worker of the pool has been measured"
    shared = f", beside {text.size(footprint.shared_bytes)} that all share"
    runs = "the pool's last run" if footprint.runs == 1 else f"the pool's last {footprint.runs} runs"
    return f"{text.size(footprint.worker_bytes)} each{shared}: the highest use of one worker in {runs}"


def _workers_text(plan: Plan, path: str | None) -> str:
    where = "" if plan.origin("workers").kind == "default" else f", by {_shorten(plan, 'workers', path)}"
    return f"workers={show('workers', plan.values['workers'])}{where}"


def _no_file_text() -> str:
    if named := os.environ.get(VARIABLE):
        return f"{'none' if named == os.devnull else named}, by {VARIABLE}"
    return "none; procjobs.toml and [tool.procjobs] of pyproject.toml are looked for here and in the directories above"


# check ------------------------------------------------------------------------------------------------------------


@click.command(short_help="Check the settings, and show where each comes from.")
@click.argument("file", metavar="[FILE]", required=False, type=click.Path())
@click.option("--all", "show_all", is_flag=True, help="Show the defaults too.")
@parameters.common
def check(file: str | None, show_all: bool, directory: str | None, as_json: bool) -> int:
    """Check the settings FILE, or the file that a program started here would find, and the variables PROCJOBS_...

    Shows for each pool the settings on this host, and where each one comes from. Exit code 1 if there is any error. The
    functions of schedules are imported, in a process of their own.
    """
    del directory  # settings do not depend on the directory of the pools
    found, problems = _read(file)
    plans: list[tuple[str | None, Plan]] = []
    if not problems:
        for pool in [*(found.pools() if found is not None else ()), None]:
            try:
                plans.append((pool, make_plan(pool, {}, file=found or SettingsFile("", (), ()))))
            except ConfigurationError as error:
                problems.append(str(error))
    problems += schedule_checks.find_problems(one for _, plan in plans for one in (plan.schedules or {}).values())
    problems = list(dict.fromkeys(problems))
    notes = [note for _, plan in plans for note in schedule_checks.find_notes(plan)]
    path = file if found is None else found.path
    if as_json:
        pools = [
            {"pool": pool, "settings": _settings_documents(plan, show_all=show_all), "schedules": _schedule_documents(plan)}
            for pool, plan in plans
        ]
        document = {"ok": not problems, "file": path, "host": host_names(), "problems": problems, "notes": notes}
        screen.write_json({**document, "pools": pools})
        return FAILED if problems else OK
    screen.write(f"file: {path or _no_file_text()}")
    screen.write(f"host: {', '.join(host_names())}")
    for pool, plan in plans:
        others = "every other pool" if len(plans) > 1 else "every pool"
        screen.write(f"\n{others if pool is None else f'pool {pool}'}")
        _write_settings(plan, show_all=show_all, path=path)
        _write_schedules(plan, path)
    screen.write()
    for note in notes:
        screen.write(f"note: {note}")
    for problem in problems:
        screen.write(problem)
    screen.write(text.count(len(problems), "problem") if problems else "all is well")
    return FAILED if problems else OK


def _read(file: str | None) -> tuple[SettingsFile | None, list[str]]:
    """Return the settings file and its errors."""
    if file is not None and not os.path.exists(file):
        raise Problem(f"there is no file {file!r}", "without FILE, the file that a program would find is checked", USAGE)
    try:
        path = find_file() if file is None else os.path.abspath(file)
        found = None if path is None else load_file(path)
    except ConfigurationError as error:
        return None, [str(error)]
    return found, [] if found is None else list(found.problems)


def _settings_documents(plan: Plan, *, show_all: bool = False) -> list[dict[str, Any]]:
    return [
        {"setting": name, "value": _shown(plan.values[name]), "from": origin.where, "kind": origin.kind}
        for name, origin in ((name, plan.origin(name)) for name in SETTINGS)
        if show_all or name in plan.origins
    ]


def _schedule_documents(plan: Plan) -> list[dict[str, Any]]:
    return [
        {"name": name, "call": one.target, "when": one.call.schedule.rule.explain(), "from": one.where}
        for name, one in (plan.schedules or {}).items()
    ]


def _write_schedules(plan: Plan, path: str | None) -> None:
    documents = _schedule_documents(plan)
    if documents:
        rows = [[row["name"], row["call"], row["when"], row["from"].removeprefix(f"{path} ")] for row in documents]
        screen.write()
        screen.write_rows(("SCHEDULE", "CALL", "WHEN", "FROM"), rows)


def _shown(value: Any) -> Any:
    return hide(value) if isinstance(value, str) else value


def _write_settings(plan: Plan, *, show_all: bool = False, path: str | None = None) -> None:
    """Write the settings as a table. `path` is the file that was shown above; its name is not repeated in each line."""
    rows = []
    for row in _settings_documents(plan, show_all=show_all):
        name = row["setting"]
        note = " (not used: workers is not auto)" if is_unused(plan, name) else ""
        rows.append([name, show(name, row["value"]), f"{_shorten(plan, name, path)}{note}"])
    if rows:
        screen.write_rows(_COLUMNS, rows)
    else:
        screen.write("nothing is set")


def _shorten(plan: Plan, setting: str, path: str | None) -> str:
    """Return where a setting comes from, without the name of the file that was shown above."""
    return plan.origin(setting).where.removeprefix(f"{path} ")
