"""Makes one plan for a pool of three sources: the arguments of `Pool(...)`, the environment and the settings file.

Argument > environment > file > default: each setting is taken from the first of these that has it, and knows which.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from procjobs.errors import ConfigurationError
from procjobs.settings.environment import read_variables
from procjobs.settings.file import SettingsFile, find_file, load_file
from procjobs.settings.keys import SETTINGS
from procjobs.settings.schedule_tables import FileSchedule, describe_misfits, digest
from procjobs.shared import store_address
from procjobs.shared.config import (
    MAX_SLOTS,
    UNSET,
    ClientSettings,
    JobOptions,
    PoolSettings,
    check_count,
    check_workers,
)
from procjobs.shared.log_lines import resolve_log

if TYPE_CHECKING:
    from procjobs.host.hostinfo import CpuFacts, MemoryFacts
    from procjobs.host.sizing import Footprint, Size

Kind = Literal["default", "file", "environment", "argument"]
_STRENGTH: Final[Mapping[str, int]] = {"default": 0, "file": 1, "environment": 2, "argument": 3}


class Origin(NamedTuple):
    """The place that a value comes from."""

    kind: Kind
    where: str


_DEFAULT: Final = Origin("default", "default")
_ARGUMENT: Final = Origin("argument", "argument")


class Plan:
    """Every setting of a pool, and the place that it comes from; and the schedules that the settings file has for it."""

    def __init__(
        self,
        name: str | None,
        values: Mapping[str, Any],
        origins: Mapping[str, Origin],
        schedules: Mapping[str, FileSchedule] | None,
    ) -> None:
        """`origins` leaves out defaults; `schedules` is None where the file says nothing of schedules.

        Raise ConfigurationError if the settings contradict each other.
        """
        self.name = name
        self.schedules = schedules
        self.values = values
        self.origins = origins
        if values["workers"] != "auto" and self.origin("workers") == self.origin("reserve") == _ARGUMENT:
            raise ConfigurationError(
                'workers and reserve contradict each other: a reserve is what workers="auto" leaves'
            )
        try:
            self.job_defaults = JobOptions(**self._of(JobOptions)).validated()
            self.client = ClientSettings(**self._of(ClientSettings)).validated()
            store = store_address.resolve(values["store"], name)
            self.log = resolve_log(values["log"], name)
            settings = {**self._of(PoolSettings), "workers": (1, 1), "store": store, "log": self.log}
            self._settings = PoolSettings(**settings).validated()
        except ConfigurationError as error:
            raise ConfigurationError(f"{error}{self._tell_origins(str(error))}") from None

    def _of(self, owner: type) -> dict[str, Any]:
        return {name: value for name, value in self.values.items() if SETTINGS[name].owner is owner}

    def _tell_origins(self, message: str) -> str:
        """Return the places of the settings in a message, except those of arguments."""
        named = [name for name in re.findall(r"\b(\w+)=", message) if name in SETTINGS]
        places = [f"{name} from {self.origin(name).where}" for name in named if self.origin(name).kind != "argument"]
        return f" ({', '.join(places)})" if places else ""

    @property
    def start_timeout(self) -> float:
        """How many seconds a process that does not start the pool waits for it."""
        return self._settings.start_timeout

    @property
    def store(self) -> str | None:
        """The URL of the pool's store, None where it has none."""
        store = self._settings.store
        assert not isinstance(store, bool)  # resolved when the plan was made
        return store

    @property
    def schedules_digest(self) -> str:
        """Text that differs when the schedules of the file differ; empty if it says nothing of schedules."""
        return "" if self.schedules is None else digest(self.schedules)

    def describe_misfits(self) -> list[str]:
        """Return which schedules of the file need what the pool does not have with these settings, in sentences."""
        return describe_misfits(self.schedules or {}, self.store, self.values["queues"], self.name)

    def origin(self, setting: str) -> Origin:
        """Return the place that a setting comes from."""
        return self.origins.get(setting, _DEFAULT)

    def choose_size(
        self,
        cpus: CpuFacts,
        memory: MemoryFacts,
        footprint: Footprint,
        *,
        held_bytes: int = 0,
        is_private: bool | None = None,
    ) -> Size:
        """Return the size that `workers="auto"` means with these facts; the pool has `held_bytes` already.

        A pool without a name counts as private, unless `is_private` says otherwise.
        """
        from procjobs.host import sizing  # here, as below: a client of a running pool does not need it

        return sizing.choose_size(
            cpus,
            memory,
            footprint,
            reserve=self.client.reserve,
            nice=self._settings.nice,
            is_private=self.name is None if is_private is None else is_private,
            held_bytes=held_bytes,
        )

    def resolve_workers(self, *, held_bytes: int = 0) -> tuple[int, int]:
        """Return the minimum and the maximum, for this host at this moment."""
        workers = self.values["workers"]
        if workers == "auto":
            from procjobs.host import footprints, hostinfo

            facts = hostinfo.read_cpu_facts(), hostinfo.read_memory_facts(), footprints.recall(self.name)
            workers = self.choose_size(*facts, held_bytes=held_bytes).workers
        return (workers, workers) if isinstance(workers, int) else workers

    def for_supervisor(self) -> PoolSettings:
        """Return the settings for a supervisor that is started now; "auto" is decided now."""
        origins = {name: origin.kind for name, origin in self.origins.items()}
        sources = {name: origin.where for name, origin in self.origins.items() if origin.kind != "argument"}
        if self.values["workers"] == "auto":
            sources["workers"] = f"auto, decided for this host ({self.origin('workers').where})"
        return replace(
            self._settings, workers=self.resolve_workers(), job_defaults=self.job_defaults, origins=origins, sources=sources
        )

    def asked_of(self, running: PoolSettings) -> dict[str, Any]:
        """Return the settings that this process may expect of a pool that another one has started.

        A value counts if its place is at least as strong as that of the running pool's value. So clients are not warned that
        an operator's argument overrides the file, as it should. They are warned if the file has changed since the pool was
        started, and if their own argument does not hold.
        """
        mine = replace(self._settings, job_defaults=self.job_defaults).flat()
        asked = {name: mine[name] for name in self.origins if name in mine and self._counts(name, running)}
        if asked.get("workers") is not None:
            del asked["workers"]
            if self.values["workers"] != "auto":
                asked["workers"] = self.resolve_workers()
        if not self.client.start:
            asked.pop("start_timeout", None)  # here it is how long this process waits for the pool
        return asked

    def _counts(self, name: str, running: PoolSettings) -> bool:
        return _STRENGTH[self.origin(name).kind] >= _STRENGTH.get(running.origins.get(name, "default"), 0)


def given_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments of a call that are settings and were given. `max_workers` is another name of `workers`."""
    given = {name: value for name, value in arguments.items() if name in SETTINGS and value is not UNSET}
    if "workers" in given:
        given["workers"] = check_workers(given["workers"])
    max_workers = arguments.get("max_workers")
    if max_workers is not None:
        if given.get("workers", "auto") != "auto":
            raise ConfigurationError("workers and max_workers contradict each other: give one of them")
        given["workers"] = check_count("max_workers", max_workers, minimum=1, maximum=MAX_SLOTS)
    return given


def make_plan(
    name: str | None,
    given: Mapping[str, Any],
    *,
    file: SettingsFile | None = None,
    variables: Mapping[str, str] | None = None,
    hosts: Sequence[str] | None = None,
) -> Plan:
    """Return the plan for a pool: `given` are the arguments; file, variables and hosts are this process's by default.

    Raise ConfigurationError if the settings file or a variable has a value that is not valid.
    """
    values = {name: setting.default for name, setting in SETTINGS.items()}
    origins: dict[str, Origin] = {}
    schedules: dict[str, FileSchedule] | None = None
    if file is None:
        path = find_file()
        file = None if path is None else load_file(path)
    if file is not None:
        for table in reversed(file.require_valid().holding(name, host_names() if hosts is None else hosts)):
            values.update(table.values)
            if table.schedules is not None:
                schedules = {**(schedules or {}), **table.schedules}
            origins |= dict.fromkeys(table.values, Origin("file", f"{file.path} {table.header}"))
    for variable in read_variables(name, os.environ if variables is None else variables).values():
        values[variable.setting] = variable.value
        origins[variable.setting] = Origin("environment", variable.variable)
    values.update(given)
    origins |= dict.fromkeys(given, _ARGUMENT)
    return Plan(name, values, origins, schedules)


def is_unused(plan: Plan, setting: str) -> bool:
    """Return whether a setting was given, but another one makes it useless."""
    return setting == "reserve" and setting in plan.origins and plan.values["workers"] != "auto"


def host_names() -> list[str]:
    """Return the names of this host in settings files: as the kernel has it, and without its domain."""
    whole = socket.gethostname()
    return list(dict.fromkeys((whole, whole.partition(".")[0])))
