"""The environment variables of a process: which of them tell one generation of code from another, and which no job needs.

Three kinds. Variables that count are part of a generation's key: clients with other values get workers of their own. Those
of a session, a terminal, a service manager, a web server or one request are a process's own, and are never compared. All
others are compared, and a difference is told.
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
    "*_MAXIMUM_THREADS", "*_MAX_THREADS", "*_NUM_THREADS", "BUILD_*", "CI", "CI_*", "COLORTERM", "COLUMNS",
    "CONTENT_*", "COVERAGE_*", "COV_*", "CREDENTIALS_DIRECTORY", "DBUS_*", "DESKTOP_SESSION", "DISPLAY",
    "DOCUMENT_*", "EDITOR", "FDSTORE", "GATEWAY_INTERFACE", "GITHUB_*", "GPG_*", "GUNICORN_*", "HIST*", "HOME",
    "HOSTNAME", "HTTP_*", "INVOCATION_ID", "JENKINS_*", "JOURNAL_STREAM", "JPY_*", "LESS*", "LINES", "LISTEN_*",
    "LOGNAME", "LS_COLORS", "MAIL", "MAINPID", "MANAGERPID", "MEMORY_PRESSURE_*", "NOTIFY_SOCKET", "OLDPWD",
    "PAGER", "PATH_INFO", "PATH_TRANSLATED", "PROCJOBS_*", "PROMPT*", "PS1", "PWD", "PYTEST_*", "QUERY_STRING",
    "REDIRECT_*", "REMOTE_*", "REQUEST_*", "RUNNER_*", "RUNTIME_DIRECTORY", "RUN_MAIN", "SCRIPT_*", "SERVER_ADDR",
    "SERVER_ADMIN", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL", "SERVER_SIGNATURE", "SERVER_SOFTWARE", "SHELL",
    "SHLVL", "SSH_*", "STY", "SUDO_*", "SYSTEMD_*", "TERM*", "TMPDIR", "TMUX*", "UMASK", "USER", "USERNAME",
    "UWSGI_*", "VIRTUAL_ENV*", "VISUAL", "VTE_*", "WATCHDOG_*", "WAYLAND_DISPLAY", "WERKZEUG_*", "WINDOWID",
    "XAUTHORITY", "XDG_*", "XPC_*", "_",
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
    """Return the variables that tell generations apart, in the order of their names: `more` are the user's patterns."""
    usual, own, added = Patterns(COUNTING), Patterns(_OWN_TO_A_PROCESS), Patterns(more)
    return {
        name: environment[name]
        for name in sorted(environment)
        if added.match(name) or (usual.match(name) and not own.match(name))
    }


def differing(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """Return the names of the variables that differ; never their values, which may be secrets.

    Without those that count, which are a generation's key, and those that are a process's own.
    """
    skipped = Patterns((*COUNTING, *_OWN_TO_A_PROCESS))
    different = {name for name in here.keys() | there.keys() if here.get(name) != there.get(name)}
    return sorted(name for name in different if not skipped.match(name))
