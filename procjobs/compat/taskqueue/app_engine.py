"""What App Engine's runtime adds to a task: the namespace, and the host of the application.

The namespace is that of Google's namespace_manager, in programs that use it. The runtime says the hosts in environment
variables. Elsewhere they are not set, and only a target that was given counts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, Final

from procjobs.compat.taskqueue.constants import DEFAULT_APP_VERSION, UNKNOWN_APP_VERSION, Version
from procjobs.compat.taskqueue.errors import InvalidTaskError
from procjobs.compat.taskqueue.headers import Headers
from procjobs.compat.taskqueue.task_checks import flatten_params

_PREFIX: Final = "x-appengine-"
_NAMESPACE: Final = "X-AppEngine-Current-Namespace"
_DEFAULT_NAMESPACE: Final = "X-AppEngine-Default-Namespace"
_DEFAULT_HOST: Final = "DEFAULT_VERSION_HOSTNAME"
_HOST: Final = "HTTP_HOST"


def add_namespaces(headers: Headers) -> None:
    """Add the namespace of the moment, which every task of the original has and its size counts; it is not sent."""
    manager = sys.modules.get("google.appengine.api.namespace_manager")
    default = None if manager is None else manager.google_apps_namespace()
    if default is not None:
        headers.setdefault(_DEFAULT_NAMESPACE, default)
    headers.setdefault(_NAMESPACE, "" if manager is None else manager.get_namespace())


def resolve_target(target: str | Version | None, headers: Headers) -> str | Version:
    """Return the target of a task, and see to its Host header; raise InvalidTaskError if both were given."""
    default_host = os.environ.get(_DEFAULT_HOST)
    if target is not None:
        if "Host" in headers:
            raise InvalidTaskError("a task has a target or a Host header, and not both")
        if default_host:
            headers["Host"] = default_host if isinstance(target, Version) else f"{target}.{default_host}"
        return target
    if not default_host:
        return UNKNOWN_APP_VERSION
    host = headers.get("Host") or os.environ.get(_HOST)
    if not host:
        return UNKNOWN_APP_VERSION
    headers.setdefault("Host", host)
    version = str(host).removesuffix(default_host).removesuffix(".") if str(host).endswith(default_host) else ""
    return version or DEFAULT_APP_VERSION


def sendable(headers: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the headers of a task that are sent: all but those that are the queue's. Their bytes are those of UTF-8."""
    pairs = [(key.decode(), value.decode(errors="surrogateescape")) for key, value in flatten_params(headers)]
    return tuple((key, value) for key, value in pairs if not key.lower().startswith(_PREFIX))
