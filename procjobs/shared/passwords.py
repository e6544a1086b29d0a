"""Passwords in the addresses of databases: what may be shown of a URL, and of an error that a database has given.

SQLAlchemy reads a URL, and is imported only where one is to be shown that may have a password. A URL that it cannot read, or
reads in another way than its author meant (a password with an `@`), is shown without everything that may be a part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, quote, unquote, unquote_plus

if TYPE_CHECKING:
    from sqlalchemy import URL

_HIDDEN: Final = "***"
# Not compiled here: these are for rare errors, and every process that uses procjobs would pay for them.
_SECRET_KEY: Final = r"(?i)pass|pwd|secret|token"  # noqa: S105 - it is a pattern
_NESTED: Final = r"(?i)://|pass\w*\s*="
"""A value that is an address of its own, such as libpq's `dbname=postgresql://...`."""
_DELIMITER: Final = r"[@:/?&#=]"
_URL_IN_TEXT: Final = r"(?i)(\b[a-z][\w+.-]*://)([^\s'\"]+)"
_PAIR_IN_TEXT: Final = r"""(?ix) (\b \w* (?:pass(?:word|wd|phrase|file)?|pwd|secret|token) \s*=\s*)
                           ('(?:[^'\\]|\\.)*' | [^\s&'",;)]+)"""
_LEAST: Final = 4
"""Shorter parts of a password are hidden in a text only where they stand in quotes: they would be found in any word."""


def hide(url: str) -> str:
    """Return a URL of a database as it may be shown and logged: without its password, and those in its query."""
    if "@" not in url and "?" not in url:
        return url
    scheme, slashes, rest = url.partition(":///")
    if slashes and "@" not in scheme:  # neither user nor host: what follows is a path
        path, question, query = rest.partition("?")
        return f"{scheme}{slashes}{path}{question}{_hide_query(query)}"
    return _show_parsed(url) or _hide_coarsely(url)


def _show_parsed(url: str) -> str:
    parsed = _parse(url)
    if parsed is None:
        return ""
    rendered = parsed.render_as_string(hide_password=True).replace(quote(_HIDDEN, safe=""), _HIDDEN)  # of a hidden one
    base, question, query = rendered.partition("?")
    return f"{base}{question}{_hide_query(query)}"


def _parse(url: str) -> URL | None:
    """Return a URL as SQLAlchemy reads it; None if it cannot, or its author may have meant another one."""
    try:
        from sqlalchemy import make_url

        parsed = make_url(url)
    except Exception:  # noqa: BLE001 - ImportError, ArgumentError, ValueError for a port: nothing can be said of its parts
        return None
    is_doubtful = "@" in f"{parsed.host}{parsed.database}" or "?" in f"{parsed.password}"
    return None if is_doubtful else parsed


def _hide_query(query: str) -> str:
    pairs = (pair.partition("=") for pair in query.split("&"))
    return "&".join(f"{name}{equals}{_HIDDEN if _is_secret(name, value) else value}" for name, equals, value in pairs)


def _is_secret(name: str, value: str) -> bool:
    return re.search(_SECRET_KEY, unquote_plus(name)) is not None or re.search(_NESTED, unquote_plus(value)) is not None


def _hide_coarsely(url: str) -> str:
    """Return a URL without everything between :// and the last @, and without the values of its query."""
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        scheme, slashes, rest = "", "", url
    before, at, shown = rest.rpartition("@")
    if "?" in before:  # a password with a question mark, or one in the query with an @: nobody can tell
        return f"{scheme}{slashes}{_HIDDEN}"
    base, question, query = shown.partition("?")
    names = "&".join(f"{pair.partition('=')[0]}={_HIDDEN}" for pair in query.split("&") if pair)
    return f"{scheme}{slashes}{_HIDDEN + at if at else ''}{base}{question}{names}"


def hide_in(text: str, url: str = "") -> str:
    """Return a text, such as the error of a driver, without the passwords of this URL, and those of any other in it."""
    if url:
        text = text.replace(url, hide(url))
        for tail in _misread_tails(url):  # a driver that was given `p@ss@host` looks for a host called `ss@host`
            text = text.replace(tail, f"{_HIDDEN}@")
        for secret in sorted(_secrets(url), key=len, reverse=True):
            if len(secret) >= _LEAST:
                text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _HIDDEN, text)
            text = re.sub(rf"(?<=['\"]){re.escape(secret)}(?=['\"])", _HIDDEN, text)
    text = re.sub(_URL_IN_TEXT, _hide_match, text)
    return re.sub(_PAIR_IN_TEXT, rf"\g<1>{_HIDDEN}", text)


def _hide_match(match: re.Match[str]) -> str:
    scheme, rest = match.groups()
    return scheme + hide(f"postgresql://{rest}").removeprefix("postgresql://")


def _password(url: str) -> str:
    """Return all that may be the password of a URL, as it is written."""
    return url.partition("://")[2].rpartition("@")[0].partition(":")[2]


def _misread_tails(url: str) -> Iterator[str]:
    password = _password(url)
    for delimiter in re.finditer(_DELIMITER, password):
        yield f"{password[delimiter.end() :]}@"


def _secrets(url: str) -> set[str]:
    """Return all texts that may be a password, or a part of one that a driver takes for something else."""
    password, parsed = _password(url), _parse(url)
    found = {password, unquote(password), *re.split(_DELIMITER, password)}
    for name, value in parse_qsl(url.partition("?")[2]):
        if _is_secret(name, value):
            found |= {value, *re.split(_DELIMITER, value)}
    public = set() if parsed is None else {parsed.username, parsed.host, parsed.database, parsed.drivername}
    return found - public - {""}
