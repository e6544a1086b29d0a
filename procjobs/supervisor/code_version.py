"""The code of a generation, as far as it can be told from that of others: its key, its source files, its environment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Final

from procjobs.shared import environment_variables
from procjobs.shared.code_spec import CodeSpec

_MAX_NAMED: Final = 3


class CodeVersion:
    """`files` has the digest of every source file that a client of the generation has seen; clients add to it.

    `executable` is the interpreter, `flags` are its options.
    """

    __slots__ = ("environment", "executable", "files", "flags", "key")

    def __init__(self, key: str, executable: str, spec: CodeSpec) -> None:
        self.key = key
        self.executable = executable
        self.flags = spec.flags
        self.environment = spec.environment
        self.files = dict(spec.files)

    def conflicts(self, files: Mapping[str, str]) -> list[str]:
        """Return the files whose contents differ from those that this code has."""
        mine = self.files
        return [path for path, digest in files.items() if mine.get(path, digest) != digest]

    def differing_variables(self, environment: Mapping[str, str]) -> list[str]:
        """Return the names of the variables that a process has otherwise, of those that do not tell generations apart."""
        return environment_variables.differing(environment, self.environment)


def name_files(paths: Iterable[str]) -> str:
    """Return the names of a few files, and how many more there are."""
    names = sorted({os.path.basename(path) for path in paths})
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
