from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from components.report.curves import POINTS, smooth, thin
from components.report.plots import HEIGHT, WIDTH, Labels, Line, Plot, curves, histogram


def drawn(plot: Plot, tag: str, style: str) -> list[ET.Element]:
    # the text is our own drawing
    root = ET.fromstring(str(plot.svg))  # noqa: S314
    return [element for element in root.iter(tag) if element.get("class") == style]


def hist(values: list[float], **more: object) -> Plot:
    return histogram(values, Labels("t", "w", "x", "y"), **more)  # type: ignore[arg-type]


def test_no_bar_spans_split() -> None:
    values = [-0.01] * 3 + [0.01] * 6 + [5.0]
    plot = hist(values, split=0)
    low, high = drawn(plot, "rect", "bar low"), drawn(plot, "rect", "bar")
    assert len(low) == 1
    assert len(high) == 2
    assert float(high[0].get("height", 0)) == pytest.approx(2 * float(low[0].get("height", 0)), abs=0.2)


def test_equal_values_make_one_bar() -> None:
    assert len(drawn(hist([0.1] * 7), "rect", "bar")) == 1


def test_marks_outside_axis_are_omitted() -> None:
    plot = hist([1.0, 2.0], marks=[(1.5, "inside"), (9.0, "outside")])
    assert "inside" in plot.svg
    assert "outside" not in plot.svg


def test_plot_stays_inside_frame() -> None:
    lines = [Line("a", "line-a", [1, 2, 3], [0.5, -4e5, 7e5]), Line("b", "line-b", [1, 3], [1, 1])]
    plot = curves(lines, Labels("t", "w", "x", "y"), reference=(9e5, "far up"))
    points = re.findall(r"(-?[\d.]+),(-?[\d.]+)", " ".join(re.findall(r'points="([^"]+)"', plot.svg)))
    assert points
    assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT for x, y in points)
    assert plot.legend == (("line-a", "a"), ("line-b", "b"))


def test_texts_are_escaped() -> None:
    plot = histogram([1.0, 2.0], Labels("t", '"><script>', "<b>", "y"), marks=[(1.5, "<i>")])
    assert "<script>" not in plot.svg
    assert "<b>" not in plot.svg
    assert "<i>" not in plot.svg


def test_long_curve_is_thinned_to_means_of_all_stretches() -> None:
    points = [(float(step), float(step)) for step in range(100_000)]
    thinned = thin(points)
    assert len(thinned) == POINTS
    assert thinned[0][1] < 500
    assert thinned[-1][1] > 99_500
    assert sum(value for _, value in thinned) / POINTS == pytest.approx(49_999.5, rel=1e-3)
    assert thin(points[:100]) == points[:100]


def test_smoothing_keeps_level_and_damps_spike() -> None:
    assert smooth([2.0] * 100) == pytest.approx([2.0] * 100)
    spiked = smooth([0.0] * 50 + [1.0] + [0.0] * 50)
    assert 0 < max(spiked) < 0.5
