"""The command line of ffmpeg: the program itself, its arguments as text, and what they say of the output's length."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from procjobs.ffmpeg.failure import FfmpegError
from procjobs.ffmpeg.reports import read_seconds

_HIDDEN: Final = "***"
_USER_IN_URL: Final = re.compile(r"(?i)(\b[a-z][\w+.-]*://)[^\s/@'\"]*(?:@[^\s/@'\"]*)*@")
_SECRET_IN_QUERY: Final = re.compile(r"(?i)([?&][^=&\s'\"]*(?:pass|pwd|secret|token|key|sig|auth)[^=&\s'\"]*=)[^&\s'\"]+")
_SECRET_OPTIONS: Final = frozenset({
    "-headers", "-cookies", "-decryption_key", "-decryption_keys", "-encryption_key", "-password", "-passphrase",
    "-cryptokey", "-srtp_out_params", "-srtp_in_params", "-http_proxy", "-hls_enc_key",
})  # fmt: skip
"""Options of ffmpeg and of its protocols whose whole value is nobody's business."""
_LEAST: Final = 4
"""A shorter secret is not looked for in the text of messages: it would be found in any word."""


class Plan(NamedTuple):
    """What a command line says: its inputs, the paths it writes to, and the limits of the output's length.

    `limits` has what `-t`, `-to` and `-ss` say of each input, and `output` of the (first) output, as (start, length).
    """

    inputs: tuple[str, ...]
    target: str | None
    limits: tuple[tuple[float, float | None], ...]
    output: tuple[float, float | None]


def find(executable: str | os.PathLike[str] | None = None) -> str:
    """Return the path of ffmpeg: `executable` if given, the one on the PATH, or that of the package imageio-ffmpeg.

    Raise FfmpegError, which says what to install, if there is none.
    """
    if executable is not None:
        found = shutil.which(os.fspath(executable))
        if found is None:
            raise FfmpegError(f"there is no program {os.fspath(executable)!r} to run ffmpeg with")
        return found
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    try:
        program: str = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except (ImportError, RuntimeError):  # it is not installed; it has no binary for this machine
        raise FfmpegError(
            "there is no ffmpeg: install the system's package (apt-get install ffmpeg), or pip install imageio-ffmpeg"
        ) from None
    return program


def as_text(argument: str | os.PathLike[str]) -> str:
    """Return one argument as ffmpeg is to get it.

    A path object is a file and nothing else: whatever its name is, it is neither an option (`-y`) nor an address of
    another protocol (`concat:a|b`). A text is taken as it is.
    """
    if isinstance(argument, str):
        return argument
    path = os.fspath(argument)
    return path if os.path.isabs(path) else os.path.join(os.curdir, path)


def read_plan(arguments: Sequence[str]) -> Plan:
    """Return what the arguments say of inputs and lengths. Options that it does not know are passed over."""
    inputs: list[str] = []
    limits: list[tuple[float, float | None]] = []
    options: dict[str, float] = {}
    for option, value in pairwise(arguments):
        if option == "-i":
            inputs.append(value)
            limits.append(_limit(options))
            options = {}
        elif option in {"-t", "-to", "-ss"}:
            seconds = read_seconds(value)
            options |= {} if seconds is None else {option: seconds}
    target = arguments[-1] if arguments and not arguments[-1].startswith("-") else None
    return Plan(tuple(inputs), target, tuple(limits), _limit(options))


def _limit(options: dict[str, float]) -> tuple[float, float | None]:
    start = options.get("-ss", 0.0)
    if "-t" in options:  # it comes before -to, as in ffmpeg
        return start, options["-t"]
    return start, options["-to"] - start if "-to" in options else None


def expected_length(plan: Plan, durations: Sequence[float | None]) -> float | None:
    """Return the length of the output in seconds, from the durations of the inputs; None where it cannot be told."""
    lengths = []
    for (start, limit), duration in zip(plan.limits, durations, strict=False):
        rest = None if duration is None else max(duration - start, 0.0)
        lengths.append(_least(rest, limit))
    known = [length for length in lengths if length is not None]
    whole = max(known) if known and len(known) == len(plan.limits) else None
    start, limit = plan.output
    return _least(None if whole is None else max(whole - start, 0.0), limit)


def _least(*values: float | None) -> float | None:
    return min((value for value in values if value is not None), default=None)


def describe_missing(plan: Plan, cwd: str | None) -> str | None:
    """Return what is wrong with the files of a command that has failed, None if nothing is to be seen."""
    for name in plan.inputs:
        path = _as_path(name, cwd)
        if path is not None and "%" not in path and not os.path.exists(path):
            return f"there is no file {name}"
        if path is not None and os.path.isfile(path) and os.path.getsize(path) == 0:
            return f"the file {name} is empty"
    path = None if plan.target is None else _as_path(plan.target, cwd)
    folder = "" if path is None else os.path.dirname(path)
    return f"there is no folder {folder} to write {plan.target} to" if folder and not os.path.isdir(folder) else None


def _as_path(name: str, cwd: str | None) -> str | None:
    """Return an argument as a path, None if it is an address of a protocol or of a device."""
    name = name.removeprefix("file:")
    if re.match(r"[\w+.-]+:", name) or name == "-" or "=" in name:  # `=`: a description of lavfi
        return None
    return os.path.join(cwd or "", name)


class Shown:
    """Shows a command, and messages about it, without the passwords of the command."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._secrets = sorted({one for one in _secrets(arguments) if len(one) >= _LEAST}, key=len, reverse=True)

    def command(self, command: Iterable[str]) -> str:
        """Return a command as one line, as it could be typed."""
        return shlex.join(self.text(part) for part in command)

    def text(self, text: str) -> str:
        """Return a text without the passwords."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return _hide(text)


def _hide(text: str) -> str:
    return _SECRET_IN_QUERY.sub(rf"\1{_HIDDEN}", _USER_IN_URL.sub(rf"\1{_HIDDEN}@", text))


def _secrets(arguments: Sequence[str]) -> Iterator[str]:
    for option, value in pairwise(arguments):
        if option.partition(":")[0] in _SECRET_OPTIONS:
            yield from (value, *value.splitlines())
