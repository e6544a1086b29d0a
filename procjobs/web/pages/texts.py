"""What end users read about a job, in their language. The texts are written once, in the script of the progress element."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Final

from procjobs.web.assets import read_assets

if TYPE_CHECKING:
    from procjobs import JobStatus, Progress

ENGLISH: Final = "en"
_MINUTES_FROM: Final = 100
_HOURS_FROM: Final = 6_000
_FEW_SECONDS: Final = 8
_TABLE: Final = re.compile(r"^const TEXTS = (\{.*?^\});", re.DOTALL | re.MULTILINE)


@cache
def read_texts() -> dict[str, dict[str, str]]:
    """Return the texts by language and name."""
    found = _TABLE.search(read_assets()["procjobs.js"].body.decode())
    assert found is not None, "procjobs.js has no table of texts"
    texts: dict[str, dict[str, str]] = json.loads(found[1])
    return texts


def choose_language(accepted: str) -> str:
    """Return the first language of an Accept-Language header, or of a list like it, in which there are texts.

    >>> choose_language("pt-BR, de-CH;q=0.8, fr;q=0.5")
    'de'
    """
    languages = [part.strip()[:2].lower() for part in accepted.split(",")]
    return next((language for language in languages if language in read_texts()), ENGLISH)


def headline(status: JobStatus, language: str) -> str:
    """Return the part done of a running job in per cent, or else the state in words."""
    fraction = None if status.progress is None else status.progress.fraction
    if status.state != "running" or fraction is None:
        return read_texts()[language][status.state]
    return f"{int(100 * fraction + 1e-9)}{'' if language == ENGLISH else chr(0xA0)}%"


def time_left(progress: Progress | None, language: str) -> str:
    """Return the remaining time in words, "" where it cannot be told."""
    seconds = None if progress is None else progress.eta()
    if not seconds:
        return ""
    texts = read_texts()[language]
    return texts["soon"] if seconds < _FEW_SECONDS else texts["left"].replace("{}", _duration(seconds))


def _duration(seconds: float) -> str:
    """Return about how long something takes, with the signs of units, which are the same in all of these languages."""
    if seconds < _MINUTES_FROM:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < _HOURS_FROM else f"{seconds / 3600:.0f} h"
