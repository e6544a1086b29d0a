"""A pool on a card: how it is in words, its numbers, meters and charts."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from procjobs.errors import ProcjobsError
from procjobs.web.api.pool_state import pool_state
from procjobs.web.dashboard import series, words

if TYPE_CHECKING:
    from procjobs import PoolStats
    from procjobs.web.dashboard.look import Look


class Card(NamedTuple):
    """What a page shows of a pool; `stats` is None of one that cannot be read, and `sentences` say why."""

    name: str
    sign: str
    word: str
    sentences: list[str]
    work: str = ""
    stats: PoolStats | None = None
    rate: float | None = None
    failing: float = 0.0
    charts: list[series.Chart] = []
    meters: list[series.Meter] = []
    scaled_ago: str = ""

    @property
    def size(self) -> str:
        """The number of workers, or its bounds: "4", "2-8"."""
        if self.stats is None:
            return ""
        least, most = self.stats.least, self.stats.most
        return str(most) if least == most else f"{least}-{most}"


def make_card(look: Look, name: str, pool: Any, *, with_charts: bool = True) -> Card:
    """Return the card of a pool, whatever state it is in."""
    try:
        stats = pool.stats()
    except ProcjobsError as error:
        return Card(name, "trouble", "down", [str(error)])
    memory = look.memory_of(name)
    sign, word, sentences = words.health(stats, pool_state(pool, stats))
    rates = memory.rates(stats)
    scaled_ago = words.ago(look.now - stats.scaled_at) if stats.scaled_at is not None else ""
    card = Card(
        name, sign, word, sentences, words.work_line(stats) if word != "down" else "", stats,
        rates.finished if rates is not None else None, round(rates.failed, 2) if rates is not None else 0.0,
        scaled_ago=scaled_ago,
    )  # fmt: skip
    if not with_charts:
        return card
    trend: list[Any] = []
    with suppress(ProcjobsError):
        trend = pool.trend()
    usage, samples = memory.sample_usage(pool)
    if card.rate is None and (known := series.throughput(trend)):
        card = card._replace(rate=known[-1][1])
    return card._replace(
        charts=series.pool_charts(trend, samples, usage, look.now), meters=series.meters(usage, samples)
    )
