"""The code of a generation, as far as it can be told from that of others: its key, its source files, its environment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Final

from procjobs.clock import wall
from procjobs.shared import environment_variables
from procjobs.shared.code_spec import CodeSpec
from procjobs.shared.source_digest import Source

_MAX_NAMED: Final = 3
_MAX_FILES: Final = 100_000
_TICK: Final = 0.02
"""The kernel's clock for files stands still for so long."""


class CodeVersion:
    """`files` has the digest of every source file that a client of the generation has seen, `loaded` those that a client
    has loaded; clients add to them, and so do workers with what jobs make them load. `told` are those of which clients
    were told that workers have others.

    A file that no client has spoken of may have been loaded by workers all the same, since `began_at` (a Unix time, as the
    files have). `executable` is the interpreter, `flags` are its options.
    """

    __slots__ = ("began_at", "environment", "executable", "files", "flags", "key", "loaded", "told")

    def __init__(self, key: str, executable: str, spec: CodeSpec) -> None:
        self.key = key
        self.executable = executable
        self.flags = spec.flags
        self.environment = spec.environment
        self.files: dict[str, str] = {}
        self.loaded: set[str] = set()
        self.told: set[str] = set()
        self.add(spec.files)
        self.began_at = wall()

    def add(self, files: Mapping[str, Source]) -> None:
        """Note the files of one more client."""
        self.files.update((path, source.digest) for path, source in files.items())
        self.loaded.update(path for path, source in files.items() if source.is_loaded)

    def to_spec(self) -> CodeSpec:
        """Return all that a process with the same code would say of it."""
        files = {path: Source(digest, 0.0, path in self.loaded) for path, digest in self.files.items()}
        return CodeSpec(self.flags, self.environment, files)

    def note_loaded(self, files: Mapping[str, str]) -> set[str]:
        """Note files that a template or a worker has loaded; return those of which a client has loaded another version.

        A file is returned once.
        """
        differing = {path for path, digest in files.items() if path in self.loaded and self.files[path] != digest}
        differing -= self.told
        self.told |= differing
        if len(self.files) < _MAX_FILES:
            self.files.update((path, digest) for path, digest in files.items() if path not in self.loaded)
        return differing

    def conflicts(self, files: Mapping[str, Source]) -> list[str]:
        """Return the files that are others than this code has, or may be: those that were changed after it began."""
        mine, began_at = self.files, self.began_at - _TICK
        return [
            path for path, source in files.items()
            if (mine[path] != source.digest if path in mine else source.changed_at >= began_at)
        ]  # fmt: skip

    def differing_variables(self, environment: Mapping[str, str]) -> list[str]:
        """Return the names of the variables that a process has otherwise, of those that do not tell generations apart."""
        return environment_variables.differing(environment, self.environment)

    def describe_difference(self, other: CodeVersion) -> str:
        """Return why a process with this code cannot have workers of the other."""
        if self.key == other.key:
            files = name_files(path for path, digest in self.files.items() if other.files.get(path) != digest)
            return f"since a process has another {files}"
        theirs, mine = (environment_variables.counting(version.environment) for version in (other, self))
        names = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
        return f"since a process has another {', '.join([*names, 'search path, preload or version'][:_MAX_NAMED])}"


def name_files(paths: Iterable[str]) -> str:
    """Return the names of a few files, and how many more there are."""
    names = sorted({os.path.basename(path) for path in paths})
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
