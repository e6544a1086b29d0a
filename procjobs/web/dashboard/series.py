"""The charts of a pool, from its trend and from what was measured while somebody looked. Pure."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from procjobs.web.dashboard import charts, words
from procjobs.web.dashboard.memory import MAX_GAP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from markupsafe import Markup

    from procjobs import PoolUsage, TrendPoint
    from procjobs.web.dashboard.memory import UsageSample

_MIN_REACH: Final = 120.0
"""Seconds that a chart shows at least, so that a pool that has just started does not seem hectic."""
_MIN_RATE_SPAN: Final = 2.0
_ASLEEP: Final = 12.0
"""Seconds between two points beyond which a pool slept in between: awake, it writes one in five seconds."""
Values: TypeAlias = "list[tuple[float, float | None]]"


class Chart(NamedTuple):
    """A small chart with its words: what it shows, the newest value with its unit, and where its axes begin and end."""

    label: str
    value: str
    unit: str
    picture: Markup
    begin: str
    note: str


class Meter(NamedTuple):
    """A bar with its words; `picture` is "" where there is no limit to compare with."""

    label: str
    value: str
    picture: Markup | str


def pool_charts(
    trend: Sequence[TrendPoint], samples: Sequence[UsageSample], usage: PoolUsage | None, now: float
) -> list[Chart]:
    """Return the charts of a pool; `now` in Unix time. There is none where there are fewer than two points."""
    found = []
    rates = throughput(trend)
    if rates:
        found += [
            _chart("Jobs a second", rates, now, words.number, "a"),
            _chart("Waiting", _column(trend, lambda point: float(point.queued)), now, words.number, "b"),
            _chart("Oldest waits", _column(trend, lambda point: point.oldest_waiting), now, words.span, "b"),
        ]
    if len(samples) > 2:
        cpu = with_gaps([(sample.at, sample.cpu_percent) for sample in samples])
        memory = with_gaps([(sample.at, float(sample.rss)) for sample in samples])
        quota = 100.0 * usage.cpus if usage is not None else None
        found.append(_chart("CPU", cpu, now, lambda value: f"{value:.0f} %", "c", most=quota))
        found.append(_chart("Memory", memory, now, words.size, "c", most=1.3 * max(sample.rss for sample in samples)))
    return found


def meters(usage: PoolUsage | None, samples: Sequence[UsageSample]) -> list[Meter]:
    """Return CPU and memory against what the pool may use."""
    if usage is None or not usage.processes:
        return []
    percent = samples[-1].cpu_percent if samples else None
    cpus = f"of {words.number(usage.cpus)} CPU{'' if usage.cpus == 1 else 's'}"
    cpu = "measuring" if percent is None else f"{words.number(round(percent / 100, 1))} {cpus}"
    share = 0.0 if percent is None or not usage.cpus else percent / 100 / usage.cpus
    found = [Meter("CPU", cpu, charts.bar(share, name=f"CPU: {cpu}", hue="c"))]
    rss = f"{words.size(usage.rss)} in {words.count(usage.processes, 'process', 'processes')}"
    if usage.memory_limit:
        rss = f"{words.size(usage.rss)} of {words.size(usage.memory_limit)}"
        found.append(Meter("Memory", rss, charts.bar(usage.rss / usage.memory_limit, name=f"Memory: {rss}", hue="c")))
    else:
        found.append(Meter("Memory", rss, ""))
    return found


def throughput(trend: Sequence[TrendPoint]) -> Values:
    """Return how many jobs ended in a second, before each point but the first; None where the counters began anew.

    The last point is of this moment, and may come so soon after the one before that it says nothing: it is left out then.
    """
    found: Values = []
    for before, point in pairwise(trend):
        span, ended = point.at - before.at, point.finished - before.finished
        if span >= _MIN_RATE_SPAN:
            found.append((point.at, ended / span if ended >= 0 else None))
    return found


def with_gaps(values: Values) -> Values:
    """Return the values with a gap before each one that comes long after the one before."""
    found: Values = []
    for at, value in values:
        if found and at - found[-1][0] > MAX_GAP:
            found.append((found[-1][0] + MAX_GAP, None))
        found.append((at, value))
    return found


def _column(trend: Sequence[TrendPoint], read: Callable[[TrendPoint], float]) -> Values:
    """Return a value of each point. It holds until the next point: a pool that sleeps writes none."""
    found: Values = []
    for point in trend:
        if found and point.at - found[-1][0] > _ASLEEP:
            found.append((point.at - 1.0, found[-1][1]))
        found.append((point.at, read(point)))
    return found


def _chart(
    label: str, values: Values, now: float, show: Callable[[float], str], hue: str, most: float | None = None
) -> Chart:
    known = [value for _, value in values if value is not None]
    until = max(now, values[-1][0])
    since = min(values[0][0], until - _MIN_REACH)
    highest, last = max(known, default=0.0), next((value for _, value in reversed(values) if value is not None), 0.0)
    top = charts.nice_top(highest) if most is None else max(most, highest)
    reach = words.about(until - since)
    name = f"{label} over the last {reach}: now {show(last)}, at most {show(highest)}"
    picture = charts.line(values, name=name, since=since, until=until, top=top, hue=hue)
    return Chart(label, show(last), "", picture, f"{reach} ago", f"at most {show(highest)}")


def attempt_line(parts: Sequence[charts.Segment], since: float, until: float) -> Markup:
    """Return the life of a job as a bar; its name says the same in words."""
    name = "; ".join(f"{part.label} for {words.span(part.end - part.begin)}" for part in parts)
    return charts.timeline(parts, name=f"Attempts in time: {name}", since=since, until=until)


def queue_bar(queue: Any) -> Markup:
    """Return how much of a queue's limit is in use."""
    name = f"{queue.running} of {queue.limit} run"
    return charts.bar(queue.running / queue.limit, name=name, warns=False)
