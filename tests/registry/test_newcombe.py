"""Newcombe's interval for paired proportions, and Wilson's, against the published formulas written out anew."""

from __future__ import annotations

import math

import pytest

from components.statistics import newcombe, wilson

Z = {0.95: 1.6448536269514722, 0.975: 1.959963984540054, 0.9: 1.2815515655446004}  # tables of the normal distribution, one-sided


def wilson_roots(events: int, n: int, confidence: float) -> tuple[float, float]:
    """The two p with (events / n - p)^2 = z^2 p (1 - p) / n: the definition, solved as a quadratic."""
    z2 = Z[confidence] ** 2
    a, b, c = n + z2, -(2 * events + z2), events**2 / n
    root = math.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def method_10(e: int, f: int, g: int, h: int, confidence: float) -> tuple[float, float]:
    """Newcombe 1998, section 2, method 10, in the paper's letters: e both, f first alone, g second alone, h neither."""
    n = e + f + g + h
    l2, u2 = wilson_roots(e + f, n, confidence)
    l3, u3 = wilson_roots(e + g, n, confidence)
    p2, p3 = (e + f) / n, (e + g) / n
    phi = 0.0
    margins = (e + f) * (g + h) * (e + g) * (f + h)
    if margins:
        product = e * h - f * g
        corrected = product - n / 2 if product > n / 2 else 0.0 if product >= 0 else float(product)
        phi = corrected / math.sqrt(margins)
    down = math.sqrt((p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u3 - p3) + (u3 - p3) ** 2)
    up = math.sqrt((u2 - p2) ** 2 - 2 * phi * (u2 - p2) * (p3 - l3) + (p3 - l3) ** 2)
    return p2 - p3 - down, p2 - p3 + up


CELLS = [
    pytest.param((20, 12, 2, 16), id="correlated beyond the correction"),
    pytest.param((6, 3, 2, 189), id="rare and correlated"),
    pytest.param((4, 6, 2, 4), id="correlation within the correction"),
    pytest.param((2, 8, 1, 9), id="product just above n/2 less n/2"),
    pytest.param((3, 6, 1, 2), id="independent"),
    pytest.param((1, 9, 7, 3), id="anticorrelated"),
    pytest.param((0, 5, 4, 191), id="disjoint"),
    pytest.param((0, 0, 0, 12), id="no event"),
    pytest.param((12, 0, 0, 0), id="every event"),
    pytest.param((0, 7, 0, 0), id="first alone"),
    pytest.param((0, 0, 7, 0), id="second alone"),
    pytest.param((5, 0, 0, 5), id="the same"),
    pytest.param((50, 3, 12, 140), id="second more often"),
]


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.975])
@pytest.mark.parametrize("cells", CELLS)
def test_newcombe_equals_method_10_of_the_paper(cells: tuple[int, int, int, int], confidence: float) -> None:
    assert newcombe(*cells, confidence) == pytest.approx(method_10(*cells, confidence), abs=1e-12)


def test_newcombe_gives_the_interval_worked_by_hand() -> None:
    # 20 both, 12 and 2 alone, 16 neither of 50: e h - f g = 296, less n / 2 is 271; margins 32 * 18 * 22 * 28 = 354816.
    # Wilson at z 1.96: 32 of 50 in .5014 to .7586, 22 of 50 in .3116 to .5769. phi = 271 / 595.66 = .4550.
    low, high = newcombe(20, 12, 2, 16, 0.975)
    assert (low, high) == pytest.approx((0.0562, 0.3292), abs=5e-4)


def test_newcombe_without_its_correction_would_be_narrower() -> None:
    # phi is 296 / 595.66 = .4969 in place of .4550: the upper end moves in the fourth digit.
    uncorrected = 296 / math.sqrt(354816)
    (l2, u2), (l3, u3) = wilson_roots(32, 50, 0.975), wilson_roots(22, 50, 0.975)
    up = math.sqrt((u2 - 0.64) ** 2 - 2 * uncorrected * (u2 - 0.64) * (0.44 - l3) + (0.44 - l3) ** 2)
    down = math.sqrt((0.64 - l2) ** 2 - 2 * uncorrected * (0.64 - l2) * (u3 - 0.44) + (u3 - 0.44) ** 2)
    low, high = newcombe(20, 12, 2, 16, 0.975)
    assert high - (0.2 + up) > 1e-3
    assert (0.2 - down) - low > 1e-3


def test_a_product_below_half_n_counts_as_no_correlation() -> None:
    # 4 * 4 - 6 * 2 = 4, and n / 2 is 8: phi is 0, and the bounds are root sums of squares.
    (l1, u1), (l2, u2) = wilson_roots(10, 16, 0.95), wilson_roots(6, 16, 0.95)
    low, high = newcombe(4, 6, 2, 4, 0.95)
    assert low == pytest.approx(0.25 - math.hypot(10 / 16 - l1, u2 - 6 / 16), abs=1e-12)
    assert high == pytest.approx(0.25 + math.hypot(u1 - 10 / 16, 6 / 16 - l2), abs=1e-12)


def test_an_anticorrelated_product_is_not_corrected() -> None:
    # 1 * 3 - 9 * 7 = -60 of margins 10 * 10 * 8 * 12: phi is -60 / sqrt(9600).
    phi = -60 / math.sqrt(9600)
    u1, l2 = wilson_roots(10, 20, 0.95)[1], wilson_roots(8, 20, 0.95)[0]
    up = math.sqrt((u1 - 0.5) ** 2 - 2 * phi * (u1 - 0.5) * (0.4 - l2) + (0.4 - l2) ** 2)
    assert newcombe(1, 9, 7, 3, 0.95)[1] == pytest.approx(0.1 + up, abs=1e-12)


@pytest.mark.parametrize(("events", "n"), [(0, 10), (1, 10), (5, 10), (9, 10), (10, 10), (3, 210), (0, 1), (1, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.975])
def test_wilson_solves_its_quadratic(events: int, n: int, confidence: float) -> None:
    low, high = wilson(events, n, confidence)
    assert (low, high) == pytest.approx(wilson_roots(events, n, confidence), abs=1e-12)
    assert 0.0 <= low <= high <= 1.0


def test_wilson_by_hand() -> None:
    # 8 of 10 at z^2 = 2.7055: center (.8 + .135277) / 1.27055 = .736119, half 1.644854 * sqrt(.016 + .0067638) / 1.27055 = .195324.
    assert wilson(8, 10, 0.95) == pytest.approx((0.540795, 0.931443), abs=1e-5)


@pytest.mark.parametrize("events", [0, 7])
def test_wilson_ends_are_exact_at_no_and_every_event(events: int) -> None:
    z2 = Z[0.95] ** 2
    expected = (0.0, z2 / (7 + z2)) if events == 0 else (7 / (7 + z2), 1.0)
    assert wilson(events, 7, 0.95) == pytest.approx(expected, abs=1e-12)


def test_the_promised_bounds_at_zero_events_hold() -> None:
    # With no event p is 0 and phi is 0: the upper end is Wilson's, z^2 / (n + z^2).
    for n in (5, 200):
        z2 = Z[0.95] ** 2
        assert newcombe(0, 0, 0, n, 0.95)[1] == pytest.approx(z2 / (n + z2), abs=1e-12)
