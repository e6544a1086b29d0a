"""The source files of the application's own modules that this process has seen, each with a digest of its contents.

They tell the code of one deploy from that of the next. The application's own modules are those outside of Python's library
and of site-packages, however they were found. Beside the files of loaded modules these are looked at, since a job may
import them: all files of the packages that loaded modules belong to, and the files beside a module that is in no package.

A file is looked at when it is first seen, and once more when its module is loaded, or loaded again: this process has the
code that was there then, whatever the file says later.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any, Final

from procjobs.shared.source_digest import Source, read_source

_MAX_ENTRIES: Final = 20_000
"""A package with more files and folders than this is known by its loaded modules alone."""
_PROCJOBS: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARY: Final = (
    os.path.dirname(os.__file__) + os.sep, os.path.dirname(os.path.realpath(os.__file__)) + os.sep, _PROCJOBS
)  # fmt: skip
_INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_SUFFIXES: Final = (".py", ".so")
_SKIPPED: Final = frozenset({"__pycache__", "node_modules"})

class SourceFiles:
    """What this process has seen. Threads may look at the same time: then a file is read twice, and entered twice alike.

    `changes` only grows: a reader remembers how far it has read. The last entry of a file holds.
    """

    def __init__(self, *, looks_around: bool = True) -> None:
        """Without `looks_around` only the files of modules are seen that this process has loaded itself."""
        self._looks_around = looks_around
        self.changes: list[tuple[str, Source]] = []
        self._sources: dict[str, Source] = {}
        self._specs: dict[str, Any] = {}
        self._paths: dict[str, str] = {}
        self._submitted: set[str] = set()
        self._folders: set[str] = set()
        self._count = 0

    def look(self, function: Any = None, modules: Iterable[str] = (), *, at_all: bool = False) -> int:
        """Look at what was loaded since the last time; return how many changes there are in all.

        `function` is about to be submitted, `modules` will be imported in another process. Modules that came in the place of
        as many others are found with `at_all`.
        """
        name = getattr(function, "__module__", None) or "__main__"
        if at_all or len(sys.modules) != self._count or not self._is_known(name):
            self._look_at_new()
            self._look_at_installed(name)
            self._submitted.add(name)
        for each in modules:
            self._look_for(each)
        return len(self.changes)

    def _is_known(self, name: str) -> bool:
        """Return whether functions of this module were submitted before, and it was not loaded again since."""
        if name == "__main__":
            return True
        return name in self._submitted and self._specs.get(name) is _spec(sys.modules.get(name))

    def _look_at_new(self) -> None:
        count = len(sys.modules)
        for name in self._specs.keys() - sys.modules.keys():
            self._forget(name)
        for name, module in list(sys.modules.items()):
            spec = _spec(module)
            if self._specs.get(name) is not spec:
                self._look_at(name, spec)
                self._specs[name] = spec
        self._count = count

    def since(self, position: int) -> dict[str, Source]:
        """Return the files that were seen or have changed since `changes` had this length."""
        return dict(self.changes[position:])

    def look_again(self) -> int:
        """Take all files as they are now: jobs run them from now on. Return how many changes there are in all."""
        for path, before in list(self._sources.items()):
            source = read_source(path)
            if source is not None and source.digest != before.digest:
                self._sources[path] = source._replace(is_loaded=before.is_loaded)
                self.changes.append((path, self._sources[path]))
        return len(self.changes)

    def _forget(self, name: str) -> None:
        """Note that a module is not loaded any more: its file may change without a difference to this process."""
        self._specs.pop(name, None)
        path = self._paths.pop(name, None)
        source = self._sources.get(path) if path is not None else None
        if path is not None and source is not None:
            self._sources[path] = source._replace(is_loaded=False)
            self.changes.append((path, self._sources[path]))

    # One module -------------------------------------------------------------------------------------------------

    def _look_at(self, name: str, spec: Any) -> None:
        if spec is None or name == "__main__" or not spec.has_location:
            return
        path = os.path.abspath(str(spec.origin))
        if _is_library(path):
            return
        self._paths[name] = path
        self._enter(path, read_source(path) or _read_archive(spec), is_loaded=True)
        if not self._looks_around:
            return
        top = name.partition(".")[0]
        package = _spec(sys.modules.get(top))
        if package is not None and package.submodule_search_locations is not None:
            self._look_into(package.submodule_search_locations)
        else:
            self._look_beside(os.path.dirname(path))

    def _look_at_installed(self, name: str) -> None:
        """Look at the package of a function in site-packages: an upgrade replaces its folder."""
        package = _spec(sys.modules.get(name.partition(".")[0])) if name != "__main__" else None
        if package is not None and package.has_location and _is_installed(str(package.origin)):
            self._look_at_folder(str(package.origin))

    def _look_at_folder(self, origin: str) -> None:
        folder = os.path.dirname(origin) if os.path.basename(origin).startswith("__init__.") else origin
        if folder not in self._sources:
            self._enter(folder, read_source(folder))

    def _look_for(self, name: str) -> None:
        """Look at a module that this process may not have loaded, without importing it."""
        top = name.partition(".")[0]
        spec = _spec(sys.modules.get(top)) or _find_spec(top)
        if spec is None:
            return
        if spec.has_location and _is_installed(str(spec.origin)):
            self._look_at_folder(str(spec.origin))
        elif spec.submodule_search_locations is not None:
            self._look_into(spec.submodule_search_locations)
        elif spec.has_location and not _is_library(str(spec.origin)):
            self._look_beside(os.path.dirname(os.path.abspath(str(spec.origin))))

    # Folders ----------------------------------------------------------------------------------------------------

    def _look_into(self, folders: Iterable[str]) -> None:
        for folder in map(os.path.abspath, folders):
            if folder in self._folders or _is_library(folder + os.sep):
                continue
            self._folders.add(folder)
            for path in _files_below(folder):
                self._enter(path, read_source(path))

    def _look_beside(self, folder: str) -> None:
        if folder in self._folders:
            return
        self._folders.add(folder)
        try:
            names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(_SUFFIXES))
        except OSError:
            return
        for name in names[:_MAX_ENTRIES]:
            path = f"{folder}/{name}"
            self._enter(path, read_source(path))

    def _enter(self, path: str, source: Source | None, *, is_loaded: bool = False) -> None:
        before = self._sources.get(path)
        if source is None or (before is not None and not is_loaded):
            return
        source = source._replace(is_loaded=is_loaded)
        if before is None or (before.digest, before.is_loaded) != (source.digest, source.is_loaded):
            self._sources[path] = source
            self.changes.append((path, source))


SOURCES: Final = SourceFiles()
"""Those of this process. After a fork the child goes on with what its parent has seen: it has the same code."""


def _spec(module: Any) -> Any:
    """Return what the import system says of a module, None for one that it did not load."""
    try:
        spec = module.__spec__
        _ = spec.has_location, spec.origin, spec.submodule_search_locations
    except Exception:  # noqa: BLE001 - anything may lie in sys.modules, lazy modules that fail among it
        return None
    return spec


def _find_spec(name: str) -> Any:
    """Return how a top-level module would be found, None if it would not; nothing is imported."""
    try:
        return find_spec(name)
    except Exception:  # noqa: BLE001 - the finders of an application may raise anything
        return None


def _is_installed(path: str) -> bool:
    return any(part in path for part in _INSTALLED)


def _is_library(path: str) -> bool:
    return path.startswith(_LIBRARY) or _is_installed(path)


def _read_archive(spec: Any) -> Source | None:
    """Return the state of the archive that a module comes from, None if it is from none."""
    archive = getattr(spec.loader, "archive", None)
    return read_source(archive) if isinstance(archive, str) else None


def _files_below(folder: str) -> Iterator[str]:
    """Yield the source files of a package, in order; none if there is too much."""
    found, seen = [], 0
    for root, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if name.isidentifier() and name not in _SKIPPED)
        seen += len(below) + len(files)
        if seen > _MAX_ENTRIES:
            return
        found += [f"{root}/{name}" for name in sorted(files) if name.endswith(_SUFFIXES)]
    yield from found
