"""The signature that tells the queue's requests from everybody else's: HMAC-SHA256, pure, in constant time.

The sender signs, the middleware of the application verifies. The key lies in the database of the queues. The value of
the header `HEADER` is text of these fields, joined by ";":

    FIELD  CONTENT
    v      the version of this table: 1
    t      when it was signed: whole seconds since 1970
    l      length of the body in bytes
    b      SHA-256 of the body, in hexadecimal digits
    p      the path of the base URL, percent-encoded: "/shop" of http://host/shop, else nothing
    h      the signed X-AppEngine-* headers in canonical form, joined by ":"
    s      HMAC of all that and of method, path, query and the values of the headers, in hexadecimal digits

1. A header of this family that the field h does not name is not signed, and does not reach the application.
2. The body is verified by its own digest, so that nobody makes an application read a body before the rest is genuine.
3. A signature is good from MAX_SKEW seconds before its time, as of a host whose clock is slow, to MAX_AGE after it. A
   request that was recorded on its way can be sent again for as long, and no other can be made from it.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

HEADER: Final = "X-Procjobs-Signature"
FAMILY: Final = "X-AppEngine-"
"""How the names of the headers begin that only the queue may send."""
KEY_BYTES: Final = 32
MAX_AGE: Final = 900.0
"""Seconds from signing until the application reads the request: it may lie that long in the backlog of a busy server."""
MAX_SKEW: Final = 300.0
"""Seconds that the clock of the application's host may be behind that of the sender's."""

_FAMILY: Final = "X_APPENGINE_"
_VERSION: Final = "1"
_FIELDS: Final = ("v", "t", "l", "b", "p", "h", "s")


class Signature(NamedTuple):
    """The fields of a signature, as claimed: nothing is proven before `is_genuine` and `is_body`."""

    at: int
    length: int
    body_digest: str
    prefix: bytes
    names: tuple[str, ...]
    digest: str


class Received(NamedTuple):
    """A request as it came to the application.

    paths: each way to understand its path, percent-decoded: with the folder that the application is mounted in, and without.
    headers: by canonical name, those of the family alone.
    """

    method: str
    paths: Sequence[bytes]
    query: bytes
    headers: Mapping[str, str]


def canonical(name: str) -> str | None:
    """Return the name of a header of the family as all its spellings have it ("TASKNAME"), None for any other header."""
    plain = name.upper().replace("-", "_")
    return plain.removeprefix(_FAMILY) if plain.startswith(_FAMILY) else None


def sign(
    key: bytes,
    method: str,
    target: str | bytes,
    headers: Iterable[tuple[str, str]],
    body: bytes,
    *,
    prefix: str = "",
    at: float | None = None,
) -> str:
    """Return the value of `HEADER` for a request.

    target: path and query as they go over the wire, percent-encoded, with the path of the base URL (`raw_path` of httpx).
    headers: all that are sent; those of the family are signed.
    prefix: the path of the base URL, so that an application behind a proxy that takes it off can verify too.
    at: when it is signed, in seconds since 1970; None is now.
    """
    raw = target.encode("ascii") if isinstance(target, str) else target
    path, _, query = raw.partition(b"?")
    own = family(headers)
    folder = unquote_to_bytes(prefix.rstrip("/"))
    claim = Signature(
        int(time.time() if at is None else at), len(body), hashlib.sha256(body).hexdigest(), folder, tuple(own), ""
    )
    decoded = unquote_to_bytes(path)
    digest = _digest(key, claim, method, decoded.removeprefix(folder), query, own)
    values = (
        _VERSION, str(claim.at), str(claim.length), claim.body_digest, quote(folder), ":".join(claim.names), digest,
    )  # fmt: skip
    return ";".join(f"{name}={value}" for name, value in zip(_FIELDS, values, strict=True))


def read(value: str) -> Signature | None:
    """Return the signature that a header has, None where it is none."""
    pairs = [part.partition("=") for part in value.strip().split(";")]
    if tuple(name for name, _, _ in pairs) != _FIELDS:
        return None
    version, at, length, body, prefix, names, digest = (text for _, _, text in pairs)
    if version != _VERSION or not (_is_number(at) and _is_number(length) and digest.isascii() and body.isascii()):
        return None
    return Signature(
        int(at), int(length), body, unquote_to_bytes(prefix), tuple(names.split(":")) if names else (), digest
    )


def is_fresh(signature: Signature, *, now: float | None = None) -> bool:
    """Return whether the time of a signature is near enough."""
    return -MAX_SKEW <= (time.time() if now is None else now) - signature.at <= MAX_AGE


def is_genuine(key: bytes, signature: Signature, request: Received, *, now: float | None = None) -> bool:
    """Return whether the queue has signed this request, its body apart, and not too long ago."""
    if not is_fresh(signature, now=now):
        return False
    paths = {path.removeprefix(signature.prefix) for path in request.paths} | set(request.paths)
    digests = [_digest(key, signature, request.method, path, request.query, request.headers) for path in paths]
    return any([hmac.compare_digest(digest, signature.digest) for digest in digests])  # noqa: C419 - all are compared


def is_body(signature: Signature, body: bytes) -> bool:
    """Return whether this is the body of the request with a genuine signature."""
    return hmac.compare_digest(hashlib.sha256(body).hexdigest(), signature.body_digest)


def is_signed(
    key: bytes,
    method: str,
    target: str | bytes,
    headers: Iterable[tuple[str, str]],
    body: bytes,
    *,
    now: float | None = None,
) -> bool:
    """Return whether a whole request is one that `sign` has signed with this key: headers with the one named `HEADER`."""
    pairs = list(headers)
    values = [value for name, value in pairs if name.lower() == HEADER.lower()]
    signature = read(values[0]) if len(values) == 1 else None
    if signature is None:
        return False
    raw = target.encode("ascii") if isinstance(target, str) else target
    path, _, query = raw.partition(b"?")
    request = Received(method, (unquote_to_bytes(path),), query, family(pairs))
    return is_genuine(key, signature, request, now=now) and is_body(signature, body)


def family(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the headers of the family by canonical name; one that comes twice is joined as servers join it."""
    found: dict[str, str] = {}
    for name, value in headers:
        key = canonical(name)
        if key is not None:
            found[key] = f"{found[key]},{value.strip()}" if key in found else value.strip()
    return found


def _digest(
    key: bytes, signature: Signature, method: str, path: bytes, query: bytes, headers: Mapping[str, str]
) -> str:
    values = [f"{name}={headers.get(name, '').strip()}" for name in signature.names]
    fields = [_VERSION, str(signature.at), str(signature.length), signature.body_digest, method.upper()]
    parts = [field.encode("latin-1", "replace") for field in fields + values] + [signature.prefix, path, query]
    framed = b"".join(len(part).to_bytes(8, "big") + part for part in [str(len(parts)).encode(), *parts])
    return hmac.new(key, framed, hashlib.sha256).hexdigest()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16
