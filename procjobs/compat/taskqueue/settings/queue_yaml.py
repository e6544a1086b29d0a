"""queue.yaml: the queues of an application. Every error names the file, the queue and the key."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Hashable, Mapping
from typing import Any, Final, NamedTuple

from procjobs.compat.taskqueue.errors import InvalidQueueNameError
from procjobs.compat.taskqueue.settings.queues import (
    DEFAULT_BUCKET_SIZE,
    DEFAULT_QUEUE,
    DEFAULT_RATE,
    Mode,
    QueueSettings,
    RetryParameters,
)
from procjobs.compat.taskqueue.task_checks import check_queue_name
from procjobs.errors import ConfigurationError

_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_UNIT_BYTES: Final = {"B": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_RATE: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?)/([smhd])")
_AGE: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)([smhd])")
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?)([BKMGT]?)")
_TARGET: Final = re.compile(r"(?:(?!-)[a-z\d-]{1,100}\.)?(?!-)[a-z\d-]{1,63}")
_MAX_BUCKET_SIZE: Final = 500
_FILE_KEYS: Final = {"queue", "total_storage_limit", "application", "resume_paused_queues"}
_QUEUE_KEYS: Final = {
    "name", "mode", "rate", "bucket_size", "max_concurrent_requests", "target", "retry_parameters", "acl"
}  # fmt: skip
_RETRY_KEYS: Final = {
    "task_retry_limit", "task_age_limit", "min_backoff_seconds", "max_backoff_seconds", "max_doublings"
}  # fmt: skip


class QueueFile(NamedTuple):
    """What a queue.yaml says; the default queue is among the queues, whether it is listed or not."""

    queues: Mapping[str, QueueSettings]
    total_storage_limit: int | None
    """In bytes, for all tasks of all queues together."""


NO_FILE: Final = QueueFile({DEFAULT_QUEUE: QueueSettings()}, None)


def read(path: str) -> QueueFile:
    """Return what a file says; raise ConfigurationError for one that cannot be read or that breaks a rule."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from None
    return parse(text, path)


def parse(text: str, path: str = "queue.yaml") -> QueueFile:
    """Return what the text of a file says; raise ConfigurationError for one that breaks a rule."""
    document = _load(text, path)
    if document is None:
        return NO_FILE
    place = _Place(path)
    values = place.mapping(document, _FILE_KEYS)
    entries = values.get("queue")
    if not isinstance(entries, list | None):
        raise place.error("queue", entries, "a list of queues, each beginning with '- name: ...'")
    queues = {DEFAULT_QUEUE: QueueSettings()}
    seen: set[str] = set()
    for number, entry in enumerate(entries or [], start=1):
        queue = _read_queue(_Place(path, f"queue {number}"), entry)
        if queue.name in seen:
            raise ConfigurationError(f"{path}: the queue {queue.name!r} is there twice")
        seen.add(queue.name)
        queues[queue.name] = queue
    return QueueFile(queues, _read_size(place, values))


def _load(text: str, path: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise ConfigurationError(f"to read {path}, PyYAML is needed: pip install 'procjobs[taskqueue]'") from None

    class Loader(yaml.SafeLoader):
        """YAML in which no key comes twice: the second one would silently win."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise yaml.constructor.ConstructorError(None, None, f"{twice!r} is there twice", node.start_mark)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not YAML as it should be: {' '.join(str(error).split())}") from None


class _Place:
    """Where in a file values are, for the errors."""

    def __init__(self, path: str, queue: str = "", section: str = "") -> None:
        self._path = path
        self._queue = queue
        self._section = section

    def inside(self, section: str) -> _Place:
        return _Place(self._path, self._queue, f"{section}.")

    def named(self, queue: str) -> _Place:
        return _Place(self._path, f"queue {queue!r}")

    def error(self, key: str, value: Any, expected: str) -> ConfigurationError:
        shown = "nothing" if value is None else repr(value)
        return ConfigurationError(f"{self._words(key)}: expected {expected}, and found {shown}")

    def _words(self, key: str) -> str:
        return ": ".join(part for part in (self._path, self._queue, f"{self._section}{key}".rstrip(".")) if part)

    def mapping(self, value: Any, keys: set[str]) -> dict[str, Any]:
        """Return a mapping with known keys alone, without those whose value is empty."""
        if not isinstance(value, dict):
            raise self.error("", value, f"keys with values ({', '.join(sorted(keys))})")
        unknown = [str(key) for key in value if key not in keys]
        if unknown:
            raise ConfigurationError(f"{self._words(unknown[0])}: there is no such key; known are {', '.join(sorted(keys))}")
        return {key: each for key, each in value.items() if each is not None}

    def number(self, values: dict[str, Any], key: str, kind: type[int | float], least: float = 0) -> Any:
        """Return a number that is at least this, None if there is none; a text that is one is taken as one."""
        value = values.get(key)
        if value is None:
            return None
        try:
            number = None if isinstance(value, bool) else kind(str(value))
        except ValueError:
            number = None
        if number is None or not least <= number < math.inf:
            words = "a whole number" if kind is int else "a number"
            raise self.error(key, value, f"{words} of {least} or more")
        return number

    def match(self, values: dict[str, Any], key: str, pattern: re.Pattern[str], expected: str) -> re.Match[str] | None:
        """Return the match of a text, None if there is none."""
        value = values.get(key)
        if value is None:
            return None
        found = None if isinstance(value, bool) else pattern.fullmatch(str(value).strip())
        if found is None:
            raise self.error(key, value, expected)
        return found


def _read_queue(place: _Place, entry: Any) -> QueueSettings:
    given = entry.get("name") if isinstance(entry, dict) else None
    name = "" if given is None else str(given)
    try:
        check_queue_name(name)
        place = place.named(name)
    except InvalidQueueNameError as error:
        if given is not None:
            raise place.error("name", given, str(error)) from None
    values = place.mapping(entry, _QUEUE_KEYS)
    if given is None:
        raise place.error("name", given, "the name of the queue")
    mode = _read_mode(place, values)
    target = place.match(values, "target", _TARGET, "a version or a service, as 'name' or 'version.service'")
    if mode == "pull" and target is not None:
        raise place.error("target", values["target"], "no target for a pull queue, whose tasks are not sent anywhere")
    bucket_size = place.number(values, "bucket_size", int, 1)
    if bucket_size is not None and bucket_size > _MAX_BUCKET_SIZE:
        raise place.error("bucket_size", bucket_size, f"at most {_MAX_BUCKET_SIZE}")
    return QueueSettings(
        name=name,
        mode=mode,
        rate=_read_rate(place, values),
        bucket_size=bucket_size or DEFAULT_BUCKET_SIZE,
        max_concurrent_requests=place.number(values, "max_concurrent_requests", int, 1),
        target=None if target is None else target[0],
        retry=_read_retry(place, values.get("retry_parameters")),
    )


def _read_mode(place: _Place, values: dict[str, Any]) -> Mode:
    mode = values.get("mode", "push")
    if mode not in {"push", "pull"}:
        raise place.error("mode", mode, "push or pull")
    return "pull" if mode == "pull" else "push"


def _read_rate(place: _Place, values: dict[str, Any]) -> float:
    if str(values.get("rate")) == "0":
        return 0.0
    found = place.match(values, "rate", _RATE, "a number and a unit such as 5/s, 10/m, 1/h or 20/d, or 0 to pause the queue")
    return DEFAULT_RATE if found is None else float(found[1]) / _UNIT_SECONDS[found[2]]


def _read_retry(place: _Place, section: Any) -> RetryParameters:
    if section is None:
        return RetryParameters()
    place = place.inside("retry_parameters")
    values = place.mapping(section, _RETRY_KEYS)
    age = place.match(values, "task_age_limit", _AGE, "a number and a unit, such as 30s, 20m, 2h or 1.5d")
    age_seconds = None if age is None else float(age[1]) * _UNIT_SECONDS[age[2]]
    if age_seconds is not None and not 1 <= age_seconds < math.inf:
        raise place.error("task_age_limit", values["task_age_limit"], "a second or more")
    least = place.number(values, "min_backoff_seconds", float)
    most = place.number(values, "max_backoff_seconds", float)
    if least is not None and most is not None and least > most:
        raise place.error("max_backoff_seconds", most, f"at least the min_backoff_seconds ({least})")
    return RetryParameters.of(
        min_backoff_seconds=least,
        max_backoff_seconds=most,
        max_doublings=place.number(values, "max_doublings", int),
        task_retry_limit=place.number(values, "task_retry_limit", int),
        task_age_limit=None if age_seconds is None else int(age_seconds),
    )


def _read_size(place: _Place, values: dict[str, Any]) -> int | None:
    found = place.match(values, "total_storage_limit", _SIZE, "bytes, with or without a unit, such as 500M or 1.5G")
    return None if found is None else int(float(found[1]) * _UNIT_BYTES[found[2] or "B"])


def find_default() -> str | None:
    """Return the path of the queue.yaml of the current directory, None if there is none."""
    path = os.path.abspath("queue.yaml")
    return path if os.path.isfile(path) else None
