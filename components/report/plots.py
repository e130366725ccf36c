"""Plots as inline SVG: histograms and curves. Colors are classes of the page's style, so that they follow light and dark.

A plot has the width of a narrow screen (360 units), so that a phone hardly scales down its text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 196
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 18, 36  # margins around the plotting area
TICKS = 5
BINS = 36


@dataclass(frozen=True)
class Plot:
    """A drawing with its title, and its description in words (also its text alternative)."""

    title: str
    words: str
    svg: Markup
    legend: tuple[tuple[str, str], ...] = ()  # (class of the line, name)


@dataclass(frozen=True)
class Labels:
    """The texts of a plot: title, description in words, names of both axes."""

    title: str
    words: str
    x: str
    y: str


@dataclass(frozen=True)
class Line:
    """One curve: `values` at `steps`, drawn in the style class `style`."""

    name: str
    style: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Axis:
    """Maps values between `low` and `high` to positions between `start` and `end`, with round ticks in between."""

    low: float
    high: float
    start: float
    end: float

    def position(self, value: float) -> float:
        """The position of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values within the axis."""
        step = _round_step((self.high - self.low) / TICKS)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def label(self, value: float) -> str:
        """A tick's text, with enough digits to differ from its neighbors."""
        step = _round_step((self.high - self.low) / TICKS)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return f"{value:,.{digits}f}".replace("-0.0", "0.0").replace("-", "\u2212") if abs(value) < 1e6 else f"{value:.1e}"


def _round_step(rough: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _axis(low: float, high: float, start: float, end: float) -> Axis:
    """An axis over a range, widened where the range is a single value."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    return Axis(low, high, start, end)


def histogram(
    values: Sequence[float],
    labels: Labels,
    *,
    bounds: tuple[float, float] | None = None,
    marks: Sequence[tuple[float, str]] = (),
    split: float | None = None,
) -> Plot:
    """The distribution of `values` (at least one). `marks` are dashed lines with a name; bars below `split` have the class `low`."""
    import numpy as np

    low, high = bounds or (min(values), max(values))
    if split is not None:
        low, high = min(low, split), max(high, split)
    edges = _edges(_axis(low, high, 0, 1), split)
    x = Axis(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    counts, _ = np.histogram(values, bins=edges)
    y = _axis(0, float(counts.max()) * 1.05, HEIGHT - BOTTOM, TOP)
    parts = _frame(x, y, labels)
    for height, start, end in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        if height:
            style = "bar low" if split is not None and (start + end) / 2 < split else "bar"
            left, right, top = x.position(start), x.position(end), y.position(height)
            parts.append(f'<rect class="{style}" x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(right - left - 1, 0.8):.1f}" '
                         f'height="{y.start - top:.1f}"/>')  # fmt: skip
    for value, name in marks:
        if x.low <= value <= x.high:
            position = x.position(value)
            anchor = "end" if position > WIDTH * 0.7 else "start"
            offset = -4 if anchor == "end" else 4
            parts.append(f'<line class="mark" x1="{position:.1f}" x2="{position:.1f}" y1="{TOP - 6}" y2="{y.start}"/>')
            parts.append(f'<text class="mark" x="{position + offset:.1f}" y="{TOP - 2}" text-anchor="{anchor}">{escape(name)}</text>')
    return Plot(labels.title, labels.words, _svg(labels.words, parts))


def _edges(x: Axis, split: float | None) -> list[float]:
    """Bin edges that cover the axis; one of them lies on `split`, so that no bin mixes both sides."""
    width = (x.high - x.low) / BINS
    if split is None:
        return [x.low + width * number for number in range(BINS + 1)]
    below, above = math.ceil((split - x.low) / width - 1e-9), math.ceil((x.high - split) / width - 1e-9)
    return [split + width * number for number in range(-below, above + 1)]


def curves(
    lines: Sequence[Line],
    labels: Labels,
    *,
    reference: tuple[float, str] | None = None,
    bounds: tuple[float, float] | None = None,
) -> Plot:
    """Curves over steps. `reference` is a dashed level with a name; `bounds` fixes the vertical range."""
    steps = [step for line in lines for step in line.steps]
    values = [value for line in lines for value in line.values] + ([reference[0]] if reference else [])
    low, high = bounds or (min(values), max(values))
    room = 0 if bounds else 0.06 * (high - low)
    x, y = _axis(min(steps), max(steps), LEFT, WIDTH - RIGHT), _axis(low - room, high + room, HEIGHT - BOTTOM, TOP)
    parts = _frame(x, y, labels, whole=True)
    if reference:
        level = y.position(reference[0])
        parts.append(f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        above = level - 4 if level > TOP + 12 else level + 11
        parts.append(f'<text class="mark" x="{WIDTH - RIGHT}" y="{above:.1f}" text-anchor="end">{escape(reference[1])}</text>')
    for line in lines:
        points = " ".join(f"{x.position(step):.1f},{y.position(value):.1f}" for step, value in zip(line.steps, line.values, strict=True))
        parts.append(f'<polyline class="{escape(line.style)}" points="{points}"/>')
    named = tuple((line.style, line.name) for line in lines if line.name)
    return Plot(labels.title, labels.words, _svg(labels.words, parts), named if len(named) > 1 else ())


def _frame(x: Axis, y: Axis, labels: Labels, *, whole: bool = False) -> list[str]:
    parts = []
    for value in y.ticks():
        level = y.position(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{level + 3.5:.1f}" text-anchor="end">{y.label(value)}</text>')
    parts += [
        f'<text x="{x.position(value):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{x.label(value)}</text>'
        for value in x.ticks()
        if not whole or value == round(value)
    ]
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    parts.append(
        f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 5}" text-anchor="middle">{escape(labels.x)}</text>'
    )
    parts.append(f'<text class="label" x="0" y="10">{escape(labels.y)}</text>')
    return parts


def _svg(words: str, parts: Sequence[str]) -> Markup:
    body = "".join(parts)
    return Markup(f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(words)}">{body}</svg>')  # noqa: S704 -- the drawing functions escape their texts
