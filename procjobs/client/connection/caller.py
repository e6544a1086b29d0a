"""The process that submits, as its workers have to know it: where its modules are, and its key of multiprocessing.

A worker imports the modules of a function by name, along the path that the pool was given. Two things are looked at before a
function is described to the supervisor, and again when further modules have been loaded since:

1. Modules that a worker would not find by name, or would find in another file: loaded by path, made by hand, executed by a
   server (uWSGI, runpy), of a directory that was on the path only for a moment. Their contents go by value.
2. Directories that have been put on the path since: a worker puts them before or behind its own.

The key (`multiprocessing.current_process().authkey`) lets a job talk to the managers of this process. It is told to the
supervisor over the connection that was checked, and nowhere else; the supervisor writes it nowhere.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, Final

from procjobs.shared.wire import MAX_CALLER_BYTES

_LOADED: Final = sys.modules
_INITIAL: Final = "__init__."
_STANDARD: Final = os.path.dirname(os.__file__) + os.sep
_CYTHON: Final = ("cython_runtime", "_cython_")
"""Cython makes these in each process. `__mp_main__` is another name of `__main__`, except in a process that was spawned."""
_PACKAGES: Final = ("/site-packages", "/dist-packages")


class Caller:
    """What is said of this process with each kind that it describes. Not for several threads at once.

    `by_value` are the names of the modules whose contents go by value. `description` is the JSON of the CALLER frame; empty
    if there is nothing to say. `looked_at` is `extent()` at the last look.
    """

    def __init__(self, path: Sequence[str]) -> None:
        """`path` is where workers look for modules without being told."""
        self.by_value: set[str] = set()
        self.description: dict[str, Any] = {}
        self.looked_at = -1
        self._path = list(path)
        self._first_path = frozenset(entry for entry in sys.path if isinstance(entry, str))
        self._own_path: list[str] = []
        self._seen: dict[str, int] = {}

    def refresh(self, module: str | None) -> bool:
        """Look at what has been loaded since, and at this module; return whether earlier descriptions say too little now."""
        now = extent()
        if now == self.looked_at and sys.path == self._own_path and self._has_seen(module):
            return False
        known, description, own_path = self.description, self._describe(), list(sys.path)
        path = [*description.get("first", ()), *self._path, *description.get("last", ())]
        if now != self.looked_at:
            new = [name for name, loaded in _LOADED.copy().items() if self._seen.get(name) != id(loaded)]
            for name in sorted(new):  # packages before their modules
                self._sort(name, path)
        if not self._has_seen(module):
            self._sort(module, path)
        # Last, and the other way round than they are compared: a thread that is interrupted has another one look again.
        self.description, self._own_path, self.looked_at = description, own_path, now
        return known != description

    def _has_seen(self, module: str | None) -> bool:
        return module == "__main__" or module not in _LOADED or self._seen.get(module) == id(_LOADED[module])

    def _describe(self) -> dict[str, Any]:
        description: dict[str, Any] = {}
        process = _LOADED.get("multiprocessing.process")
        if process is not None:
            description["authkey"] = bytes(process.current_process().authkey).hex()
        present = [entry for entry in sys.path if isinstance(entry, str)]
        if not self._first_path.issuperset(present):
            # Those that were there before are not followed again: a link among them may lead to another release by now.
            known = self._first_path
            split = next((n for n, entry in enumerate(present) if entry in known), 0)
            description["first"] = real(present[:split])
            description["last"] = real(entry for entry in present[split:] if entry not in known)
        if len(json.dumps(description)) > MAX_CALLER_BYTES:  # a path that is as long is no path that somebody needs
            description = {"authkey": description["authkey"]} if process is not None else {}
        return description

    def _sort(self, name: Any, path: list[str]) -> None:
        module = _LOADED.get(name)
        if not issubclass(type(module), ModuleType) or name == "__main__":
            return
        values = object.__getattribute__(module, "__dict__")  # not with getattr, which would load a lazy module
        is_of_others = name.startswith(_CYTHON) or (name == "__mp_main__" != values.get("__name__"))
        if is_of_others or (name != "__mp_main__" and self._is_found(name, values, path)):
            self.by_value.discard(name)
        else:
            self.by_value.add(name)
        self._seen[name] = id(module)

    def _is_found(self, name: str, values: dict[str, Any], path: list[str]) -> bool:
        file = values.get("__file__")
        if isinstance(file, str) and _is_installed(file):
            return True
        parent, _, last = name.rpartition(".")
        if parent in self.by_value:
            return False
        places = path if not parent else _places_of(parent)
        if places is None:
            return True  # no package that is in files: importing the parent makes it, or nothing does
        if not isinstance(file, str):
            is_made = values.get("__spec__") is None or (values["__spec__"].origin is None and "__path__" not in values)
            return bool(parent) or not is_made or _find(name, places) is not None
        return _is_in(file, last, places) if parent else _is_same(_find(name, places), file)


def extent() -> int:
    """Return a number that changes when a module was loaded, or a directory was put on the path. For every submission."""
    return len(_LOADED) + len(sys.path)


def real(path: Iterable[str]) -> list[str]:
    """Return the entries of a search path as they are for any process of this host, links followed."""
    return [os.path.realpath(entry) for entry in path]


def _is_installed(file: str) -> bool:
    """Return whether a file belongs to the standard library or an installed package, which workers have as well."""
    return file.startswith(_STANDARD) or any(f"{folder}{os.sep}" in file for folder in _PACKAGES)


def _places_of(package: str) -> list[str] | None:
    """Return the directories of a loaded package, None if it has none."""
    module = _LOADED.get(package)
    if not issubclass(type(module), ModuleType):
        return None
    places = object.__getattribute__(module, "__dict__").get("__path__")
    return None if places is None else [str(place) for place in places]


def _is_in(file: str, name: str, places: list[str]) -> bool:
    """Return whether a module of this name in this file is found in one of these directories."""
    folder, base = os.path.split(file)
    if base.startswith(_INITIAL):
        folder, base = os.path.split(folder)
    return base.partition(".")[0] == name and os.path.realpath(folder) in real(places)


def _find(name: str, path: list[str]) -> Any:
    """Return where a worker finds this module, None if it does not."""
    for finder in sys.meta_path:
        if finder is importlib.machinery.PathFinder:
            spec = importlib.machinery.PathFinder.find_spec(name, path)
        elif _is_of_workers(finder):
            spec = finder.find_spec(name, None)
        else:
            continue
        if spec is not None:
            return spec
    return None


def _is_of_workers(finder: Any) -> bool:
    """Return whether workers have this finder, too: that of an editable install is in a file that `site` loads."""
    if finder in {importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter}:
        return True
    kind = finder if isinstance(finder, type) else type(finder)
    file = getattr(_LOADED.get(kind.__module__), "__file__", None) or ""
    return os.path.dirname(file).endswith(_PACKAGES)


def _is_same(spec: Any, file: str) -> bool:
    return spec is not None and spec.origin is not None and os.path.realpath(spec.origin) == os.path.realpath(file)
