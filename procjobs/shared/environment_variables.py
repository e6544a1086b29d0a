"""The environment variables of a process: which of them tell one generation of code from another, and which no job needs.

Three kinds. Variables that count are part of a generation's key: clients with other values get workers of their own. Those
of a session, a terminal, a service manager or a web server are a process's own, and are never compared. All others are
compared, and a difference is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final

COUNTING: Final = (
    "APP_*", "AWS_*", "CONFIG", "CONFIG_*", "DATABASE*", "DB", "DB_*", "DJANGO_*", "ENV", "ENVIRONMENT", "FLASK_*",
    "LANG", "LANGUAGE", "LC_*", "LD_*", "PATH", "PG*", "PYTHON*", "REDIS_*", "SECRET_KEY", "TZ", "*_CONFIG",
    "*_CONFIG_FILE", "*_DSN", "*_ENV", "*_ENVIRONMENT", "*_SETTINGS", "*_SETTINGS_MODULE", "*_URI", "*_URL",
)  # fmt: skip
"""The variables that count for every pool; `Pool(environment=[...])` adds names and patterns."""

_OWN_TO_A_PROCESS: Final = (
    "_", "COLORTERM", "COLUMNS", "COVERAGE_*", "COV_*", "CREDENTIALS_DIRECTORY", "DBUS_*", "DESKTOP_SESSION",
    "DISPLAY", "EDITOR", "FDSTORE", "GPG_*", "GUNICORN_*", "HIST*", "HOME", "HOSTNAME", "INVOCATION_ID",
    "JOURNAL_STREAM", "JPY_*", "LESS*", "LINES", "LISTEN_*", "LOGNAME", "LS_COLORS", "MAIL", "MAINPID",
    "MANAGERPID", "MEMORY_PRESSURE_*", "NOTIFY_SOCKET", "OLDPWD", "PAGER", "PS1", "PROCJOBS_*", "PROMPT*", "PWD",
    "PYTEST_*", "RUN_MAIN", "RUNTIME_DIRECTORY", "SERVER_SOFTWARE", "SHELL", "SHLVL", "SSH_*", "STY", "SUDO_*",
    "SYSTEMD_*", "TERM*", "TMPDIR", "TMUX*", "UMASK", "USER", "USERNAME", "UWSGI_*", "VIRTUAL_ENV*", "VISUAL",
    "VTE_*", "WATCHDOG_*", "WAYLAND_DISPLAY", "WERKZEUG_*", "WINDOWID", "XAUTHORITY", "XDG_*", "XPC_*",
    "*_MAX_THREADS", "*_MAXIMUM_THREADS", "*_NUM_THREADS",
)  # fmt: skip
_NOT_FOR_WORKERS: Final = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Workers do not speak for a service."""


class Patterns:
    """Names of variables, some with a star at an end."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._names: set[str] = set()
        self._others: list[str] = []
        prefixes, suffixes = [], []
        for pattern in patterns:
            core = pattern.strip("*")
            if not set(core) & set("*?["):
                if pattern == core:
                    self._names.add(core)
                    continue
                if pattern == core + "*":
                    prefixes.append(core)
                    continue
                if pattern == "*" + core:
                    suffixes.append(core)
                    continue
            self._others.append(pattern)
        self._prefixes, self._suffixes = tuple(prefixes), tuple(suffixes)

    def match(self, name: str) -> bool:
        """Return whether a name is one of them."""
        if name in self._names or name.startswith(self._prefixes) or name.endswith(self._suffixes):
            return True
        return any(fnmatchcase(name, pattern) for pattern in self._others)


def of_workers(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that workers get from a client."""
    return {name: value for name, value in environment.items() if name not in _NOT_FOR_WORKERS}


def counting(environment: Mapping[str, str], more: Iterable[str] = ()) -> dict[str, str]:
    """Return the variables that tell generations apart, in the order of their names."""
    patterns = Patterns((*COUNTING, *more))
    return {name: environment[name] for name in sorted(environment) if patterns.match(name)}


def differing(here: Mapping[str, str], there: Mapping[str, str], ignored: Iterable[str] = ()) -> list[str]:
    """Return the names of the variables that differ; never their values, which may be secrets.

    Without those that count, which are a generation's key, and those that are a process's own.
    """
    skipped = Patterns((*COUNTING, *_OWN_TO_A_PROCESS, *ignored))
    different = {name for name in here.keys() | there.keys() if here.get(name) != there.get(name)}
    return sorted(name for name in different if not skipped.match(name))
