"""Which hosts a request may be for: a page of a stranger that makes its name point here (DNS rebinding) is refused. Pure."""

from __future__ import annotations

from typing import Final

from procjobs.web.http import Problem

LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")


def check_host(host: str, allowed: tuple[str, ...] | None) -> None:
    """Raise Problem 421 unless the Host header names one of the allowed hosts; None allows all of them.

    A name counts with every port; one with a port counts with that alone; one that begins with a dot counts for all names
    below it.
    """
    if allowed is None:
        return
    given = host.strip().lower()
    name = strip_port(given).rstrip(".")
    for one in allowed:
        wanted = one.lower()
        if name.endswith(wanted) if wanted.startswith(".") else wanted in {name, given}:
            return
    raise Problem(
        421, "Wrong host", f"This server does not answer for the host {host[:200]!r}. Add it to allow_hosts if it should."
    )


def strip_port(host: str) -> str:
    """Return a host without its port: "[::1]" of "[::1]:8000", "a.example" of "a.example:80"."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
