"""The application's source files that this worker has loaded, as they were then: the supervisor is told of them."""

from __future__ import annotations

import sys
from itertools import islice
from typing import Final

from procjobs.host.source_files import SourceFiles
from procjobs.shared.wire import Frame, json_frame

_FILES_OF_A_FRAME: Final = 50  # a path has at most 4,096 bytes


class LoadedFiles:
    """What this process has loaded. The template looks after its preload; its workers go on from there."""

    def __init__(self) -> None:
        self._files = SourceFiles(looks_around=False)
        self._told = 0
        self._count = 0

    def look(self) -> dict[str, str]:
        """Return the digests of the files that were loaded since the last look."""
        self._count = len(sys.modules)
        position, self._told = self._told, self._files.look()
        return {path: source.digest for path, source in self._files.since(position).items()}

    def frames(self) -> bytes:
        """Return the frames that tell the supervisor what is new; nothing as long as no module was imported (40 ns)."""
        if len(sys.modules) == self._count:
            return b""
        files = iter(self.look().items())
        frames = b""
        while part := dict(islice(files, _FILES_OF_A_FRAME)):
            frames += json_frame(Frame.LOADED, {"files": part})
        return frames


LOADED_FILES: Final = LoadedFiles()
