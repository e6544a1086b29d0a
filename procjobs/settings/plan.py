"""From what `Pool(...)` is given, the environment and the settings file to what a supervisor is started with.

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
from procjobs.settings import environment
from procjobs.settings import file as settings_file
from procjobs.settings.keys import SETTINGS
from procjobs.shared import store_address as address
from procjobs.shared.config import (
    MAX_SLOTS,
    UNSET,
    ClientSettings,
    JobOptions,
    PoolSettings,
    check_count,
    check_workers,
)

if TYPE_CHECKING:
    from procjobs.host.hostinfo import CpuFacts, MemoryFacts
    from procjobs.host.sizing import Footprint, Size

Kind = Literal["default", "file", "environment", "argument"]
_STRENGTH: Final[Mapping[str, int]] = {"default": 0, "file": 1, "environment": 2, "argument": 3}


class Origin(NamedTuple):
    """Where a value comes from: what kind of place, and which."""

    kind: Kind
    where: str


_DEFAULT: Final = Origin("default", "default")
_ARGUMENT: Final = Origin("argument", "argument")


class Plan:
    """What a pool is to be: every setting, and where it comes from."""

    def __init__(self, name: str | None, values: Mapping[str, Any], origins: Mapping[str, Origin]) -> None:
        """`origins` has those that are not the default. Raise ConfigurationError if the settings contradict each other."""
        self.name = name
        self.values = values
        self.origins = origins
        if values["workers"] != "auto" and self.origin("workers") == self.origin("reserve") == _ARGUMENT:
            raise ConfigurationError(
                'workers and reserve contradict each other: a reserve is what workers="auto" leaves'
            )
        try:
            self.job_defaults = JobOptions(**self._of(JobOptions)).validated()
            self.client = ClientSettings(**self._of(ClientSettings)).validated()
            store = address.resolve(values["store"], name)
            self._settings = PoolSettings(**{**self._of(PoolSettings), "workers": (1, 1), "store": store}).validated()
        except ConfigurationError as error:
            raise ConfigurationError(f"{error}{self._tell_origins(str(error))}") from None

    def _of(self, owner: type) -> dict[str, Any]:
        return {name: value for name, value in self.values.items() if SETTINGS[name].owner is owner}

    def _tell_origins(self, message: str) -> str:
        """Say of the settings in a message where they come from, if that is not the call itself."""
        named = [name for name in re.findall(r"\b(\w+)=", message) if name in SETTINGS]
        places = [f"{name} from {self.origin(name).where}" for name in named if self.origin(name).kind != "argument"]
        return f" ({', '.join(places)})" if places else ""

    def origin(self, setting: str) -> Origin:
        """Return where a setting comes from."""
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
        """Return what `workers="auto"` means where these are the facts; `held_bytes` is what the pool has already.

        A pool without a name is private unless it is said that it is not.
        """
        from procjobs.host import sizing  # here, as below: who attaches to a pool has no use for it

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
        """Return (least, most), for this host at this moment."""
        workers = self.values["workers"]
        if workers == "auto":
            from procjobs.host import footprints, hostinfo

            facts = hostinfo.read_cpu_facts(), hostinfo.read_memory_facts(), footprints.recall(self.name)
            workers = self.choose_size(*facts, held_bytes=held_bytes).workers
        return (workers, workers) if isinstance(workers, int) else workers

    def for_supervisor(self) -> PoolSettings:
        """Return what a supervisor that is started now is to have; "auto" is decided now."""
        origins = {name: origin.kind for name, origin in self.origins.items()}
        return replace(self._settings, workers=self.resolve_workers(), job_defaults=self.job_defaults, origins=origins)

    def asked_of(self, running: PoolSettings) -> dict[str, Any]:
        """Return what this process may expect of a pool that somebody else has started.

        A value counts if it comes from as strong a place as the one that holds. So nobody is told that an operator's
        argument overrides the file, as it is to do, but everybody that the file has changed since the pool was started,
        and that his own argument does not hold.
        """
        mine = replace(self._settings, job_defaults=self.job_defaults).flat()
        asked = {name: mine[name] for name in self.origins if name in mine and self._counts(name, running)}
        if asked.get("workers") is not None:
            del asked["workers"]
            if self.values["workers"] != "auto":
                asked["workers"] = self.resolve_workers()
        return asked

    def _counts(self, name: str, running: PoolSettings) -> bool:
        return _STRENGTH[self.origin(name).kind] >= _STRENGTH.get(running.origins.get(name, "default"), 0)


def given_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings among the arguments of a call that were given. `max_workers` is another name of `workers`."""
    given = {name: value for name, value in arguments.items() if name in SETTINGS and value is not UNSET}
    most = arguments.get("max_workers")
    if most is not None:
        if given.get("workers", "auto") != "auto":
            raise ConfigurationError("workers and max_workers contradict each other: give one of them")
        given["workers"] = check_count("max_workers", most, minimum=1, maximum=MAX_SLOTS)
    if "workers" in given:
        given["workers"] = check_workers(given["workers"])
    return given


def make_plan(
    name: str | None,
    given: Mapping[str, Any],
    *,
    file: settings_file.SettingsFile | None = None,
    variables: Mapping[str, str] | None = None,
    hosts: Sequence[str] | None = None,
) -> Plan:
    """Return what a pool is to be: `given` are the arguments, the rest is found where it is unless it is given too.

    Raise ConfigurationError if the settings file or a variable says what cannot be.
    """
    values = {name: setting.default for name, setting in SETTINGS.items()}
    origins: dict[str, Origin] = {}
    if file is None:
        path = settings_file.find_file()
        file = None if path is None else settings_file.load_file(path)
    if file is not None:
        for table in reversed(file.require_valid().holding(name, host_names() if hosts is None else hosts)):
            values.update(table.values)
            origins |= dict.fromkeys(table.values, Origin("file", f"{file.path} {table.header}"))
    for variable in environment.read_variables(name, os.environ if variables is None else variables).values():
        values[variable.setting] = variable.value
        origins[variable.setting] = Origin("environment", variable.variable)
    values.update(given)
    origins |= dict.fromkeys(given, _ARGUMENT)
    return Plan(name, values, origins)


def is_unused(plan: Plan, setting: str) -> bool:
    """Return whether a setting was given and another one makes it useless."""
    return setting == "reserve" and setting in plan.origins and plan.values["workers"] != "auto"


def host_names() -> list[str]:
    """Return the names by which this host is known to settings files: as the kernel has it, and without its domain."""
    whole = socket.gethostname()
    return list(dict.fromkeys((whole, whole.partition(".")[0])))
