"""A schedule: a rule with a name, and what is done about periods that are late or meet a run that still goes on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from procjobs.errors import ConfigurationError
from procjobs.schedules.rules import After, Every, Rule, make_rule, rule_from_json
from procjobs.schedules.zones import SECOND
from procjobs.shared.durations import check_required, check_seconds

CATCH_UP: Final = ("last", "all", "none")
OVERLAP: Final = ("skip", "queue", "allow", "replace")
_MAX_LETTERS: Final = 100
_FIELDS: Final = {"name", "rule", "catch_up", "overlap", "jitter", "expires"}


@dataclass(frozen=True, slots=True)
class Schedule:
    """A rule with a name and its options. `jitter` and `expires` are seconds; None for `catch_up` means "last"."""

    name: str
    rule: Rule
    catch_up: str | None = None
    overlap: str = "skip"
    jitter: float = 0.0
    expires: float | None = None

    def due_at(self, period: int) -> int:
        """Return when the run of a period is to start: the period, or up to `jitter` later, never after the next period.

        It is the same in every process and after each restart.
        """
        if not self.jitter:
            return period
        width = round(self.jitter * SECOND)
        interval = self.rule.interval_at(period)
        if interval is not None:
            width = min(width, interval)
        digest = hashlib.blake2b(f"{self.name}/{period}".encode(), digest_size=8).digest()
        return period + int.from_bytes(digest, "little") % max(width, 1)

    def expires_at(self, period: int) -> int | None:
        """Return the last moment at which a period may be started; None if it may always be."""
        return None if self.expires is None else period + round(self.expires * SECOND)

    def to_json(self) -> dict[str, Any]:
        """Return the schedule for the wire and the store."""
        return {
            "name": self.name,
            "rule": self.rule.to_json(),
            "catch_up": self.catch_up,
            "overlap": self.overlap,
            "jitter": self.jitter,
            "expires": self.expires,
        }


def make_schedule(
    name: object,
    *,
    cron: object = None,
    every: object = None,
    after: object = None,
    at: object = None,
    tz: object = None,
    anchor: object = None,
    catch_up: object = None,
    overlap: object = "skip",
    jitter: object = 0,
    expires: object = None,
) -> Schedule:
    """Return a schedule; raise ConfigurationError, naming it, for options that make no sense."""
    name = check_schedule_name(name)
    try:
        rule = make_rule(cron=cron, every=every, after=after, at=at, tz=tz, anchor=anchor)
        return _check(name, rule, catch_up, overlap, jitter, expires)
    except ConfigurationError as error:
        raise ConfigurationError(f"schedule {name!r}: {error}") from None


def schedule_from_json(values: object) -> Schedule:
    """Return the schedule that `to_json` has described; raise ConfigurationError for anything else."""
    if not isinstance(values, dict) or values.keys() != _FIELDS:
        raise ConfigurationError(f"{values!r:.200} describes no schedule: was it written by another release?")
    name = check_schedule_name(values["name"])
    try:
        rule = rule_from_json(values["rule"])
        return _check(name, rule, values["catch_up"], values["overlap"], values["jitter"], values["expires"])
    except ConfigurationError as error:
        raise ConfigurationError(f"schedule {name!r}: {error}") from None


def check_schedule_name(name: object) -> str:
    """Return the name of a schedule; raise ConfigurationError if it cannot be one."""
    if not isinstance(name, str) or not 1 <= len(name) <= _MAX_LETTERS or not name.isprintable() or "/" in name:
        raise ConfigurationError(
            f"schedule {name!r:.200}: expected a name, of 1 to {_MAX_LETTERS} letters that can be printed, without '/'"
        )
    return name


def _check(name: str, rule: Rule, catch_up: object, overlap: object, jitter: object, expires: object) -> Schedule:
    if catch_up is not None and catch_up not in CATCH_UP:
        raise ConfigurationError(f"catch_up={catch_up!r}: expected {', '.join(map(repr, CATCH_UP))} or None")
    if overlap not in OVERLAP:
        raise ConfigurationError(f"overlap={overlap!r}: expected {', '.join(map(repr, OVERLAP))}")
    if isinstance(rule, After) and overlap != "skip":
        raise ConfigurationError(f"overlap={overlap!r}: runs with after= never overlap; leave it away")
    if isinstance(rule, After) and catch_up == "all":
        raise ConfigurationError("catch_up='all': with after= at most one run can be missed; leave it away")
    spread = check_required("jitter", jitter, zero=True)
    if isinstance(rule, Every) and spread * SECOND >= rule.step:
        raise ConfigurationError(f"jitter={jitter!r}: expected less than every= ({rule.step / SECOND:g} s)")
    limit = check_seconds("expires", expires)
    if limit is not None and limit <= spread:
        raise ConfigurationError(
            f"expires={expires!r}: expected more than jitter= ({spread:g} s), or runs expire before they are due"
        )
    return Schedule(name, rule, None if catch_up is None else str(catch_up), str(overlap), spread, limit)
