"""A TurboGears 2 application: the facts that workers need of it, and setting up a worker with them."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterable
from typing import Any, Final

from procjobs.errors import ConfigurationError

_PREFIX: Final = "asyncjob."
_PLAIN: Final = (str, int, float, bool, type(None))


def config() -> Any:
    """Return TurboGears' configuration, empty where there is none."""
    tg = sys.modules.get("tg")
    if tg is None:
        return {}
    try:
        tg.config.get("package")
    except (AttributeError, TypeError):  # no application has been configured in this process
        return {}
    return tg.config


def app_globals() -> Any:
    """Return the application's globals, None if it has none."""
    return config().get("tg.app_globals")


def settings(names: Iterable[str]) -> dict[str, Any]:
    """Return the settings `asyncjob.NAME` of the application's configuration file."""
    found = {name: config().get(_PREFIX + name) for name in names}
    values = {name: value for name, value in found.items() if value is not None}
    for name, value in values.items():
        if name == "preload" and isinstance(value, str):
            values[name] = value.split()
        elif isinstance(value, str) and value.replace(".", "", 1).isdigit():
            values[name] = float(value) if "." in value else int(value)
    return values


def describe(session: str | None) -> dict[str, Any]:
    """Return the facts that a worker needs of this application."""
    place = session if session is not None else _locate(_find_session())
    registry = _load(place) if place is not None else None
    plain = {name: value for name, value in dict(config()).items() if isinstance(name, str) and type(value) in _PLAIN}
    return {"session": place, "url": _url_of(registry), "config": plain}


def set_up(described: dict[str, Any]) -> None:
    """Bind the application's sessions in this worker as they are in the application, and make jobs transactions."""
    if described["config"] and importlib.util.find_spec("tg") is not None:
        tg = importlib.import_module("tg")
        tg.config.push_process_config(dict(described["config"]))
    registry = _load(described["session"]) if described["session"] is not None else None
    manager = None
    with contextlib.suppress(ModuleNotFoundError):
        manager = importlib.import_module("transaction").manager
    if registry is not None and described["url"] is not None and _bind_of(registry) is None:
        from sqlalchemy import create_engine

        registry.configure(bind=create_engine(described["url"], pool_pre_ping=True))  # connections live on between jobs
    if registry is not None or manager is not None:
        from procjobs.sql import configure

        configure(registry, transaction_manager=manager)


def _find_session() -> Any:
    """Return the application's scoped_session: TurboGears knows it, or knows the module `model` that has it."""
    known = config()
    registry = known.get("DBSession")
    for holder in (known.get("model"), getattr(known.get("package"), "model", None)):
        registry = registry if registry is not None else getattr(holder, "DBSession", None)
    return registry if hasattr(registry, "registry") else None


def _locate(registry: Any) -> str | None:
    """Return `module:name` of a registry that a worker can import; of several the shortest, most often the model's."""
    if registry is None:
        return None
    places = [
        f"{name}:{attribute}"
        for name, module in sorted(sys.modules.items())
        if name != "__main__" and getattr(module, "__spec__", None) is not None and not name.startswith("tg.")
        for attribute, value in list(vars(module).items())
        if value is registry
    ]
    return min(places, key=lambda place: (len(place), place), default=None)


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"session={place!r}: {error}; expected 'module:name' of a scoped_session") from error


def _bind_of(registry: Any) -> Any:
    return getattr(registry.session_factory, "kw", {}).get("bind")


def _url_of(registry: Any) -> str | None:
    engine = _bind_of(registry) if registry is not None else None
    if engine is None:
        engine = getattr(app_globals(), "sa_engine", None)
    return engine.url.render_as_string(hide_password=False) if engine is not None else None
