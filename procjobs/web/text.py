r"""Text from jobs, as a page may show it: without commands to a terminal, without tricks of direction, of a bounded length.

It is still text, never markup: templates escape it, scripts put it into `textContent`.

>>> clean("\x1b[31mred\x1b[0m and \u202ereversed", 100)
'red and \\u202ereversed'
"""

from __future__ import annotations

import re
from typing import Final

MAX_NAME: Final = 200
MAX_MESSAGE: Final = 500
MAX_ERROR: Final = 4_096
MAX_LOG: Final = 65_536
_ESCAPES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # control sequences: colours, movements of the cursor
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\|$)"  # strings: titles, hyperlinks
    r"|\x1b[ -/]*[0-~]"
)
_CONTROLS: Final = [*range(0x20), *range(0x7F, 0xA0)]
_DIRECTIONS: Final = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_SURROGATES: Final = range(0xD800, 0xE000)
_LINE: Final[dict[int, str | None]] = {
    **dict.fromkeys(_CONTROLS),
    **{code: f"\\u{code:04x}" for code in (*_DIRECTIONS, *_SURROGATES)},
    0x2028: " ", 0x2029: " ", ord("\t"): " ", ord("\n"): " ", ord("\r"): " ",
}  # fmt: skip
_LINES: Final[dict[int, str | None]] = {**_LINE, ord("\t"): "\t", ord("\n"): "\n", ord("\r"): "\n"}


def clean(text: str, limit: int) -> str:
    """Return one line of at most `limit` characters; what is longer ends with "..."."""
    return _shorten(_translate(text, limit, _LINE), limit)


def clean_lines(text: str, limit: int) -> str:
    """Return several lines of together at most `limit` characters: the beginning, and "..." where more was."""
    return _shorten(_translate(text, limit, _LINES), limit)


def clean_end(text: str, limit: int) -> str:
    """Return the last lines of a text, together at most `limit` characters: a line with "..." where more was before."""
    tail = text[-8 * limit :]
    shown = tail if tail.isprintable() else _ESCAPES.sub("", tail.replace("\r\n", "\n")).translate(_LINES)
    if len(shown) <= limit:
        return shown
    _, _, whole_lines = shown[-limit:].partition("\n")
    return f"...\n{whole_lines}"


def _translate(text: str, limit: int, table: dict[int, str | None]) -> str:
    head = text[: 8 * limit]  # a megabyte of which some hundred characters are shown
    return head if head.isprintable() else _ESCAPES.sub("", head.replace("\r\n", "\n")).translate(table)


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
