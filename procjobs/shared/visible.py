"""Text of strangers for a terminal: characters that would command it are shown instead of obeyed. Pure."""

from __future__ import annotations

from typing import Final

_CONTROLS: Final = [*range(0x20), *range(0x7F, 0xA0)]
_DIRECTIONS: Final = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
"""Marks of Unicode that let text be read in another order than it is stored."""
_TABLE: Final[dict[int, str]] = {
    **{code: f"\\x{code:02x}" for code in _CONTROLS},
    **{code: f"\\u{code:04x}" for code in _DIRECTIONS},
    ord("\t"): "\t", ord("\n"): "\n", ord("\r"): "\n",
}  # fmt: skip


def visible(text: str) -> str:
    r"""Return text in which a terminal finds no commands: `\x1b` for an escape, a new line for a carriage return.

    >>> print(visible("\x1b[2J" + "10%\r20%\r\n"), end="")
    \x1b[2J10%
    20%
    """
    return text if text.isprintable() else text.replace("\r\n", "\n").translate(_TABLE)
