"""Small charts as SVG text, from numbers. Pure.

Colours and strokes come from the stylesheet, by class: a page under a strict policy has no style attributes. A chart is a
picture with one accessible name, which says in words what the line says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WIDTH: Final = 320.0
HEIGHT: Final = 64.0
_HEADROOM: Final = 4.0
"""Above the highest point, so that its stroke is not cut off."""
MAX_POINTS: Final = 120
"""More than a small chart shows; points between are averaged."""


class Segment(NamedTuple):
    """A part of a timeline: from and to in seconds, the class that colours it, and its name."""

    begin: float
    end: float
    kind: str
    label: str


def nice_top(highest: float) -> float:
    """Return a round number at least as large, for the top of an axis.

    >>> [nice_top(value) for value in (0, 0.3, 1, 7, 23, 180)]
    [1.0, 0.5, 1.0, 10.0, 25.0, 200.0]
    """
    if highest <= 0:
        return 1.0
    power = 1.0
    while power * 10 < highest:
        power *= 10
    while power >= highest:
        power /= 10
    return next(power * step for step in (1, 2, 2.5, 5, 10) if power * step >= highest * 0.999_999)


def thin(points: Sequence[tuple[float, float | None]], most: int = MAX_POINTS) -> list[tuple[float, float | None]]:
    """Return at most so many points: the means of neighbours. A gap (None) stays one."""
    if len(points) <= most:
        return list(points)
    thinned: list[tuple[float, float | None]] = []
    for index in range(most):
        group = points[index * len(points) // most : (index + 1) * len(points) // most]
        known = [value for _, value in group if value is not None]
        thinned.append((group[-1][0], sum(known) / len(known) if len(known) * 2 >= len(group) and known else None))
    return thinned


def line(
    points: Sequence[tuple[float, float | None]], *, name: str, since: float, until: float, top: float, hue: str = "a"
) -> Markup:
    """Return a line over a filled area. `points` are (time, value), None for a gap; `hue` is a class: a, b or c.

    The picture reaches from the time `since` to `until`, and from 0 to `top`.
    """
    shapes = []
    for run in _runs(thin(points)):
        drawn = [(_x(at, since, until), _y(value, top)) for at, value in run]
        path = " L".join(f"{x:.1f} {y:.1f}" for x, y in drawn)
        first, last = drawn[0][0], drawn[-1][0]
        shapes.append(f'<path class="area" d="M{first:.1f} {HEIGHT:.0f} L{path} L{last:.1f} {HEIGHT:.0f} Z"/>')
        shapes.append(f'<path class="line" vector-effect="non-scaling-stroke" d="M{path}{"" if len(run) > 1 else " h1"}"/>')
    base = f'<path class="base" vector-effect="non-scaling-stroke" d="M0 {HEIGHT - 0.5:.1f} H{WIDTH:.0f}"/>'
    return _picture(name, f"chart hue-{hue}", WIDTH, HEIGHT, base + "".join(shapes))


def bar(fraction: float, *, name: str, hue: str = "a", warns: bool = True) -> Markup:
    """Return a horizontal bar that is filled to `fraction`, 0.0 to 1.0. From 0.9 on it `warns` by its colour."""
    filled = min(max(fraction, 0.0), 1.0) * 100
    shapes = f'<rect class="rail" width="100" height="6"/><rect class="fill" width="{filled:.1f}" height="6"/>'
    return _picture(name, f"bar hue-{hue}{' full' if warns and fraction >= 0.9 else ''}", 100, 6, shapes)


def timeline(segments: Iterable[Segment], *, name: str, since: float, until: float) -> Markup:
    """Return the life of something as segments of one bar."""
    width = max(until - since, 1e-9)
    shapes = []
    for segment in segments:
        x = 1000 * (segment.begin - since) / width
        length = max(1000 * (segment.end - segment.begin) / width, 4.0)
        shapes.append(
            f'<rect class="part {escape(segment.kind)}" x="{x:.1f}" width="{length:.1f}" height="14">'
            f"<title>{escape(segment.label)}</title></rect>"
        )
    return _picture(name, "timeline", 1000, 14, "".join(shapes))


def _picture(name: str, kind: str, width: float, height: float, shapes: str) -> Markup:
    return Markup(  # noqa: S704 - all text in it was escaped
        f'<svg class="{kind}" viewBox="0 0 {width:.0f} {height:.0f}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(name)}" focusable="false">{shapes}</svg>'
    )


def _runs(points: Iterable[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """Return the points between gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in points:
        if value is not None:
            runs[-1].append((at, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _x(at: float, since: float, until: float) -> float:
    return WIDTH * min(max((at - since) / max(until - since, 1e-9), 0.0), 1.0)


def _y(value: float, top: float) -> float:
    return HEIGHT - (HEIGHT - _HEADROOM) * min(max(value / top, 0.0), 1.0) - 0.5
