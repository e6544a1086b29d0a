"""Signed ids: a token that lets whoever has it look at one job until a moment, and cancel it if that was given with it.

    ID.EXPIRES.SIGNATURE        ID         the id of the job, 36 characters
                                EXPIRES    Unix time in seconds, decimal
                                SIGNATURE  16 bytes of HMAC-SHA256 in URL-safe base64, 22 characters

The right is part of what is signed, not of the token: a token that only looks cannot be edited into one that cancels. 128
bits cannot be guessed, and 50 tokens still fit into the URL that gunicorn accepts (4 KiB).
"""

from __future__ import annotations

import base64
import hmac
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

import procjobs
from procjobs.errors import ConfigurationError, UnknownJob
from procjobs.web.moments import wall

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK: Final = "look"
LOOK_AND_CANCEL: Final = "look+cancel"
RIGHTS: Final[dict[str, frozenset[str]]] = {
    LOOK: frozenset({"look"}),
    LOOK_AND_CANCEL: frozenset({"look", "cancel"}),
}
WEEK: Final = 7 * 86_400.0
SECRET_VARIABLE: Final = "PROCJOBS_WEB_SECRET"  # noqa: S105 - the name of it
_PURPOSE: Final = b"procjobs job token 1"
_SIGNATURE_BYTES: Final = 16
_MIN_SECRET_BYTES: Final = 16
_MAX_TOKEN: Final = 200


class Grant(NamedTuple):
    """What a token, or an id, lets a visitor do: with which job, and whether to look or to cancel.

    `key` is what the page knows the job by: the part of its token before the first dot. `refusal` says why there are no
    rights; `until` is when they end, in Unix time, None for never.
    """

    key: str
    rights: frozenset[str]
    refusal: str | None = None
    until: float | None = None


class Signer:
    """Signs and checks ids with one secret."""

    def __init__(self, secret: bytes | str | None, now: Callable[[], float]) -> None:
        """`now` returns the Unix time. Raise ConfigurationError for a secret of less than 16 bytes."""
        self._key = hmac.digest(find_secret(secret), _PURPOSE, "sha256")
        self._now = now

    def sign(self, job_id: str, right: str, max_age: float) -> str:
        """Return a token for a job; `right` is one of `RIGHTS`, `max_age` in seconds."""
        expires = int(self._now() + max_age)
        return f"{job_id}.{expires}.{self._signature(job_id, expires, right)}"

    def check(self, token: str) -> Grant:
        """Return what a token grants. It has no rights if it is none, was changed, or has expired."""
        key, *rest = token[:_MAX_TOKEN].split(".")
        if len(rest) != 2 or not (rest[0].isascii() and rest[0].isdigit()) or len(rest[0]) > 12:
            return Grant(key, frozenset(), "this is not a signed id")
        expires, signature = int(rest[0]), rest[1].encode("ascii", "replace")
        # Each right is compared, and whether one fits is looked at afterwards: the time says nothing of where it differs.
        fits = [(right, hmac.compare_digest(self._signature(key, expires, right).encode(), signature)) for right in RIGHTS]
        right = next((right for right, does_fit in fits if does_fit), None)
        if right is None:
            return Grant(key, frozenset(), "the signature of this id does not fit")
        if expires < self._now():
            return Grant(key, frozenset(), "this link has expired")
        return Grant(key, RIGHTS[right], until=expires)

    def _signature(self, job_id: str, expires: int, right: str) -> str:
        digest = hmac.digest(self._key, f"{job_id}.{expires}.{right}".encode(), "sha256")
        return base64.urlsafe_b64encode(digest[:_SIGNATURE_BYTES]).rstrip(b"=").decode()


def find_secret(secret: bytes | str | None) -> bytes:
    """Return the secret that is given, that of the environment, or else that of this user on this host.

    Raise ConfigurationError for one of less than 16 bytes, or if this user has no home to keep one in.
    """
    given: bytes | str | None = os.environ.get(SECRET_VARIABLE) if secret is None else secret
    if given is None:
        return bytes(procjobs.user_secret("web"))
    raw = given.encode() if isinstance(given, str) else bytes(given)
    if len(raw) < _MIN_SECRET_BYTES:
        raise ConfigurationError(
            f"the secret of the web pages has {len(raw)} bytes, and needs at least {_MIN_SECRET_BYTES}: take, for example, "
            "the output of `python -c 'import secrets; print(secrets.token_hex())'`"
        )
    return raw


def sign(
    job: Any, *, cancel: bool = False, max_age: float = WEEK, secret: bytes | str | None = None
) -> str:
    """Return a token that lets whoever has it look at a job, for `max_age` seconds; with `cancel`, also cancel it.

    `job` is a handle or an id. `secret` is that of the web pages: if it is not given, the environment's PROCJOBS_WEB_SECRET,
    or one that this user's processes on this host share. Give one where several hosts serve the pages. Does not ask the
    pool, and does not block. Raise UnknownJob for what is no id, ConfigurationError for a secret that is too short.

    >>> token = sign("0192f0c1-2345-7abc-8def-0123456789ab", secret="an example, not a secret")
    >>> token.split(".")[0]
    '0192f0c1-2345-7abc-8def-0123456789ab'
    """
    right = LOOK_AND_CANCEL if cancel else LOOK
    return Signer(secret, wall).sign(_id_text(job), right, max_age)


def _id_text(job: Any) -> str:
    given = job if isinstance(job, str | UUID) else getattr(job, "id", job)
    try:
        return str(UUID(str(given)))
    except ValueError:
        raise UnknownJob(f"{str(given)[:100]!r} is not a job id: expected a handle, or the text in its `id`") from None
