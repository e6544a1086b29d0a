"""One call on its way to a supervisor, and the terms on which it was submitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from procjobs.clock import wall
from procjobs.errors import ConfigurationError
from procjobs.shared.config import JOB_OPTION_NAMES
from procjobs.shared.durations import check_moment, check_seconds
from procjobs.shared.job_keys import pack_key
from procjobs.shared.meta import pack_meta
from procjobs.shared.suggestions import suggest
from procjobs.shared.wire import HEADER, SUBMIT

if TYPE_CHECKING:
    from procjobs.client.connection.handle import Handle
    from procjobs.client.connection.kinds import Kind
    from procjobs.host.descriptors import Descriptor
    from procjobs.shared.config import JobOptions

Call: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""(function, args, kwargs)."""

_AT_ONCE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Terms:
    """When and with which options jobs run that are submitted through one object: `Pool.options` has the words for them.

    `changes` are those to the default options. `unique` is for how many seconds after its submission a job is to be the
    only one of its key, ended or not; None if others with its key may be submitted. `meta` is JSON, empty for none.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    delay: float = 0.0
    at: float | None = None
    expires: float = 0.0
    key: bytes = b""
    unique: float | None = None
    meta: bytes = b""

    def but(self, changes: Mapping[str, Any]) -> Terms:
        """Return these terms with changes, which have the names of `Pool.options`; raise ConfigurationError."""
        rest = dict(changes)
        delay = check_seconds("delay", rest.pop("delay", self.delay), zero=True, optional=False) or 0.0
        at = rest.pop("at", self.at)
        if at is not None and delay:
            raise ConfigurationError("delay and at contradict each other: give one of them")
        at = check_moment("at", at)
        expires = check_seconds("expires", rest.pop("expires", self.expires or None)) or 0.0
        key = pack_key(rest.pop("key", None)) or self.key
        unique = _check_unique(rest.pop("unique", None), self.unique)
        if unique is not None and not key:
            raise ConfigurationError("unique= needs a key=, which says what the job is the only one of")
        meta = rest.pop("meta", None)
        packed = self.meta if meta is None else pack_meta(meta)
        unknown = rest.keys() - JOB_OPTION_NAMES
        if unknown:
            raise ConfigurationError(f"unknown job option{suggest(sorted(unknown), JOB_OPTION_NAMES | TERM_NAMES)}")
        return Terms({**self.changes, **rest}, delay, at, expires, key, unique, packed)


TERM_NAMES: Final = frozenset(one.name for one in fields(Terms)) - {"changes"}
"""The options of one submission, which a function cannot have as its own."""


def _check_unique(unique: object, inherited: float | None) -> float | None:
    if unique is None or unique is False:
        return inherited if unique is None else None
    if unique is True:
        return 0.0
    return check_seconds("unique", unique)


def _sent() -> None:
    """Stand in the place of a function that was sent."""


SENT: Final[Call] = (_sent, (), {})


@dataclass(init=False, eq=False, slots=True)
class Submission:
    """A call with its handle and kind; once it is sent, its frame and a file, kept until it is acknowledged.

    `submission_of` makes one for every job; a constructor would take 0.15 us longer. The connection that sends it adds
    `frame`, `file`, `sent_at`, `sequence` and `went`, which has how many bytes each call of the kernel took.
    `call` becomes SENT then, so that arguments live no longer than the caller wants. Those that go together, all or none,
    have the same `batch`, which is a mark and nothing else.
    """

    handle: Handle
    kind: Kind
    options: JobOptions
    call: Call
    terms: Terms
    delay: float
    frame: bytes
    file: Descriptor | None
    sent_at: float
    sequence: int
    went: list[int]
    batch: object

    def renewed(self, kind: Kind, now: float) -> Submission:
        """Return the submission for another connection: the kind's number there, times shorter by what has passed."""
        job_id, _, delay, expires, *lengths = SUBMIT.unpack_from(self.frame, HEADER.size)
        elapsed = now - self.sent_at
        rest = max(expires - elapsed, _AT_ONCE) if expires else 0.0
        head = SUBMIT.pack(job_id, kind.number, max(delay - elapsed, 0.0), rest, *lengths)
        renewed = submission_of(self.handle, kind, self.options, SENT, self.terms)
        renewed.frame = self.frame[: HEADER.size] + head + self.frame[HEADER.size + SUBMIT.size :]
        renewed.file, renewed.sent_at, renewed.went, renewed.batch = self.file, now, [], self.batch
        return renewed

    def can_be_sent_again(self) -> bool:
        """Return whether all of it is still here: the frame, and the descriptor if it has one."""
        return self.file is not None or not HEADER.unpack_from(self.frame)[2]

    def has_expired(self, now: float) -> bool:
        """Return whether the job is not to be started any more."""
        expires: float = SUBMIT.unpack_from(self.frame, HEADER.size)[3]
        return 0 < expires <= now - self.sent_at


def submission_of(handle: Handle, kind: Kind, options: JobOptions, call: Call, terms: Terms) -> Submission:
    """Return a submission that was not sent yet."""
    submission = Submission()
    submission.handle = handle
    submission.kind = kind
    submission.options = options
    submission.call = call
    submission.terms = terms
    submission.batch = None
    submission.delay = terms.delay if terms.at is None else max(terms.at - wall(), 0.0)
    return submission
