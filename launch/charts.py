"""Small charts as inline SVG. Colours are CSS classes, so that the page's light and dark themes apply."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from ..datasets.statistics import Rate

_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 12, 40


@dataclass(frozen=True)
class Point:
    """One measured value with its interval; `low` and `high` equal `y` where there is none."""

    x: float
    y: float
    low: float
    high: float
    title: str = ""


@dataclass(frozen=True)
class Series:
    """A line with a band, or, with `dots`, dots with error bars.

    Attributes:
        name: for the legend.
        colour: CSS class: ``before``, ``after``, ``third`` or ``bad``.
        points: in the order of x; those that are not finite are left out.
        dots: dots with bars instead of a line with a band.
    """

    name: str
    colour: str
    points: Sequence[Point]
    dots: bool = False


@dataclass(frozen=True)
class _Frame:
    """Maps values to pixels."""

    width: int
    height: int
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        share = (value - self.x_low) / ((self.x_high - self.x_low) or 1.0)
        return round(_LEFT + share * (self.width - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / ((self.y_high - self.y_low) or 1.0)
        return round(self.height - _BOTTOM - share * (self.height - _TOP - _BOTTOM), 1)


def at_both_widths(draw: Callable[..., str], wide: tuple[int, int], narrow: tuple[int, int]) -> Markup:
    """A chart for a desktop and for a phone, of which the page shows one: text in a chart does not scale.

    Args:
        draw: takes ``width`` and ``height``, pixels.
        wide: the desktop's.
        narrow: the phone's.
    """
    large, small = (draw(width=width, height=height) for width, height in (wide, narrow))
    return Markup(f'<div class="wide">{large}</div><div class="narrow">{small}</div>')


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    label: str,
    width: int,
    height: int,
    percent: bool = False,
) -> str:
    """Lines over a common x.

    Args:
        series: at least one finite point in all.
        x_label: under the axis.
        label: what the chart shows, for those who cannot see it.
        width: in pixels; make one for each width it is shown at, for text does not scale.
        height: in pixels.
        percent: y runs from 0 to 1 and is written in per cent.
    """
    series = [_finite(one) for one in series]
    points = [point for one in series for point in one.points]
    xs = [point.x for point in points]
    y_low, y_high = 0.0, 1.0
    if not percent:
        y_low, y_high = min(0.0, *(p.low for p in points)), max(p.high for p in points)
        y_high = y_high if y_high > y_low else y_low + 1.0
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if percent else _ticks(y_low, y_high, 4)
    frame = _Frame(width, height, min(0.0, *xs), max(xs), min(y_low, y_ticks[0]), max(y_high, y_ticks[-1]))
    parts = [_axes(frame, y_ticks, percent, x_label)]
    for one in series:
        parts.append(_dots(frame, one) if one.dots else _line(frame, one))
    return _svg(frame, label, "".join(parts))


def stacked_bars(
    columns: Sequence[tuple[float, Sequence[float], str]],
    colours: Sequence[str],
    *,
    x_label: str,
    label: str,
    width: int,
    height: int,
) -> str:
    """One bar for each column, its parts one above the other.

    Args:
        columns: x, the parts' sizes, and a title, for each bar.
        colours: CSS class of each part.
        x_label: under the axis.
        label: what the chart shows, for those who cannot see it.
        width: in pixels.
        height: in pixels.
    """
    tallest = max(sum(sizes) for _, sizes, _ in columns) or 1.0
    ticks = _ticks(0.0, tallest, 3)
    low, high = columns[0][0], columns[-1][0]
    frame = _Frame(width, height, low - 0.5, high + 0.5, 0.0, max(tallest, ticks[-1]))
    parts = [_axes(frame, ticks, False, x_label, whole_x=True)]
    bar = max(1.0, (frame.x(low + 1) - frame.x(low)) * 0.72)
    for x, sizes, title in columns:
        base = 0.0
        for size, colour in zip(sizes, colours, strict=True):
            top, bottom = frame.y(base + size), frame.y(base)
            if size:
                parts.append(
                    f'<rect class="fill {colour}" x="{frame.x(x) - bar / 2:.1f}" y="{top}" '
                    f'width="{bar:.1f}" height="{bottom - top:.1f}"><title>{escape(title)}</title></rect>'
                )
            base += size
    return _svg(frame, label, "".join(parts))


def dumbbell(rates: Sequence[tuple[Rate, str]], label: str) -> str:
    """Rates with their 95 % intervals on one line from 0 to 100 %; stretches to the width it is given.

    Args:
        rates: rate and CSS class, the upper row first.
        label: what it shows, for those who cannot see it.
    """
    height = 12 * len(rates) + 4
    parts = [
        f'<line class="grid" x1="{x}%" x2="{x}%" y1="0" y2="{height}"/>' for x in (0.2, 25, 50, 75, 99.8)
    ]
    for row, (rate, colour) in enumerate(rates):
        if not rate.trials:
            continue
        y = 8 + 12 * row
        low, high = 100 * rate.interval.low, 100 * rate.interval.high
        parts.append(
            f'<g class="{colour}"><title>{escape(str(rate))}</title>'
            f'<line class="range" x1="{low:.2f}%" x2="{high:.2f}%" y1="{y}" y2="{y}"/>'
            f'<circle class="dot" cx="{_inside(100 * rate.value)}%" cy="{y}" r="4.5"/></g>'
        )
    return (
        f'<svg class="dumbbell" height="{height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _inside(percent: float) -> str:
    """Keeps a dot at 0 or 100 % whole."""
    return f"{min(max(percent, 1.5), 98.5):.2f}"


def _finite(series: Series) -> Series:
    kept = [p for p in series.points if all(map(math.isfinite, (p.x, p.y, p.low, p.high)))]
    return Series(series.name, series.colour, kept, series.dots)


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from at most `low` to at least nearly `high`."""
    raw = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _number(value: float, largest: float) -> str:
    """In thousands if the largest of its axis has five figures."""
    if abs(largest) >= 10_000:
        return f"{value / 1000:g}k" if value else "0"
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _axes(frame: _Frame, y_ticks: Sequence[float], percent: bool, x_label: str, whole_x: bool = False) -> str:
    parts = []
    for value in y_ticks:
        y = frame.y(value)
        text = f"{100 * value:.0f} %" if percent else _number(value, y_ticks[-1])
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{frame.width - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4}" text-anchor="end">{text}</text>')
    bottom = frame.height - _BOTTOM
    span = frame.x_high - frame.x_low
    for value in _ticks(frame.x_low, frame.x_high, 6 if frame.width > 500 else 3) if span else []:
        if frame.x_low <= value <= frame.x_high and (not whole_x or value == int(value)):
            text = _number(value, frame.x_high)
            parts.append(f'<text x="{frame.x(value)}" y="{bottom + 17}" text-anchor="middle">{text}</text>')
    middle = (_LEFT + frame.width - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{frame.height - 5}" text-anchor="middle">{escape(x_label)}</text>')
    return "".join(parts)


def _line(frame: _Frame, series: Series) -> str:
    def path(pairs: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in pairs)

    points = series.points
    band = [(p.x, p.high) for p in points] + [(p.x, p.low) for p in reversed(points)]
    marks = "".join(
        f'<circle class="dot" cx="{frame.x(p.x)}" cy="{frame.y(p.y)}" r="2.5">'
        f"<title>{escape(p.title)}</title></circle>"
        for p in points
    )
    shown = any(p.low != p.high for p in points)
    area = f'<polygon class="band" points="{path(band)}"/>' if shown else ""
    line = f'<polyline class="line" points="{path([(p.x, p.y) for p in points])}"/>'
    return f'<g class="{series.colour}">{area}{line}{marks}</g>'


def _dots(frame: _Frame, series: Series) -> str:
    marks = "".join(
        f"<g><title>{escape(p.title)}</title>"
        f'<line class="range" x1="{frame.x(p.x)}" x2="{frame.x(p.x)}" y1="{frame.y(p.low)}" '
        f'y2="{frame.y(p.high)}"/><circle class="dot" cx="{frame.x(p.x)}" cy="{frame.y(p.y)}" r="4.5"/></g>'
        for p in series.points
    )
    return f'<g class="{series.colour}">{marks}</g>'


def _svg(frame: _Frame, label: str, body: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {frame.width} {frame.height}" role="img" '
        f'aria-label="{escape(label)}">{body}</svg>'
    )
