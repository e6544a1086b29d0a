"""Reads the calls that `tune` makes from words and files."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click

from procjobs.cli import parameters
from procjobs.cli.problems import USAGE, Problem
from procjobs.tuning import Call


def parse_words(text: str) -> Call:
    """Return the call of one --args: a JSON list or object, or else words that are split as a shell does it.

    >>> parse_words('in.mp4 256'), parse_words('["in.mp4", 256]'), parse_words('{"size": 256}')
    (Call(args=('in.mp4', 256), kwargs={}), Call(args=('in.mp4', 256), kwargs={}), Call(args=(), kwargs={'size': 256}))
    """
    value = parameters.parse_value(text)
    if isinstance(value, list | dict):
        return from_value(value)
    try:
        return Call(tuple(parameters.parse_value(word) for word in shlex.split(text)))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} cannot be split into words: {error}") from None


def from_value(value: Any) -> Call:
    """Return the call of a JSON value.

    A list has the arguments by position, an object the arguments by name. An object with the keys "args" and "kwargs", or
    one of them, has both kinds. Any other value is the only argument.

    >>> from_value({"args": ["in.mp4"], "kwargs": {"size": 256}}), from_value("in.mp4")
    (Call(args=('in.mp4',), kwargs={'size': 256}), Call(args=('in.mp4',), kwargs={}))
    """
    if isinstance(value, list):
        return Call(tuple(value))
    if not isinstance(value, dict):
        return Call((value,))
    args, kwargs = value.get("args", []), value.get("kwargs", {})
    is_both = value.keys() <= {"args", "kwargs"} and isinstance(args, list) and isinstance(kwargs, dict)
    return Call(tuple(args), kwargs) if is_both else Call((), value)


def read_file(path: str) -> list[Call]:
    """Return a call for each line of JSON; raise Problem with the number of a line that is not JSON."""
    try:
        if path == "-":
            lines = sys.stdin.read().splitlines()
        else:
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{path} cannot be read: {error}", "", USAGE) from None
    made = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                made.append(from_value(json.loads(line)))
            except ValueError as error:
                hint = 'such as ["in.mp4", 256] or {"path": "in.mp4", "size": 256}'
                raise Problem(f"{path}, line {number}: {error}", f"each line is JSON, {hint}", USAGE) from None
    if not made:
        raise Problem(f"{path} has no line with arguments", "", USAGE)
    return made


def choose(words: Iterable[str], keywords: Mapping[str, Any], sets: Iterable[Call], path: str | None) -> list[Call]:
    """Return the calls of --args and the file, or else the one call of the command line's words; --kw is for all calls."""
    args = tuple(parameters.parse_value(word) for word in words)
    made = [*sets, *(read_file(path) if path is not None else [])]
    if made and args:
        given = "--args" if path is None else "--args-file"
        raise Problem(f"{' '.join(map(str, args))}: arguments are given twice", f"put all of them into {given}", USAGE)
    return [Call(call.args, {**keywords, **call.kwargs}) for call in made or [Call(args)]]
