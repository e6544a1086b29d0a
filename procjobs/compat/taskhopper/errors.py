"""The errors of the task hopper."""

from __future__ import annotations

from procjobs.errors import ConfigurationError, PayloadError, ProcjobsError


class UnknownTask(ConfigurationError, LookupError):
    """The module of the tasks defines no function of that name; nothing was added."""


class ArgumentsNotJSON(PayloadError, TypeError):
    """An argument or a result is not a value of JSON; the message says which."""


class DatabaseAway(ProcjobsError):
    """The database of the tasks does not answer at the moment; the message has its own words."""


class RunnerRefused(ProcjobsError):
    """Another runner works the tasks of this database; the message says which one."""
