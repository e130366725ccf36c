"""Metrics in points of 100 with their intervals, and changes with their tone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.report.wording import count, number

Tone = Literal["good", "bad", "unclear", "none"]


def scaled(value: float | None, scale: float) -> float | None:
    """`value` times `scale`; None stays None."""
    return None if value is None else scale * value


@dataclass(frozen=True)
class Estimate:
    """A metric with its interval in points of 100; None where it was not computed."""

    value: float | None
    low: float | None = None
    high: float | None = None
    sign: bool = False  # for changes: written with a plus or a minus
    extreme: str = ""  # stands before the interval where all cases are equal

    @classmethod
    def of(cls, metrics: Mapping[str, Any], key: str, scale: float = 100, cases: int | None = None) -> Estimate:
        """The metric `key` of a stage, over `cases` cases."""
        value, low, high = (scaled(metrics.get(f"{key}{end}"), scale) for end in ("", "_low", "_high"))
        extreme = f"{'none' if value == 0 else 'all'} of {count(cases)}" if cases and value in {0, 100} else ""
        return cls(value, low, high, extreme=extreme)

    @classmethod
    def shared(cls, value: float | None, low: float | None, high: float | None, *, sign: bool = False) -> Estimate:
        """An estimate from shares of 1."""
        return cls(scaled(value, 100), scaled(low, 100), scaled(high, 100), sign=sign)

    @property
    def text(self) -> str:
        """The value as text."""
        return number(self.value, sign=self.sign)

    @property
    def interval(self) -> str:
        """The interval, empty without one."""
        if self.low is None or self.high is None:
            return self.extreme
        ends = f"{number(self.low, sign=self.sign)} to {number(self.high, sign=self.sign)}"
        return f"{self.extreme}: {ends}" if self.extreme else ends


@dataclass(frozen=True)
class Change:
    """The change of a metric by alignment, and whether it is good."""

    estimate: Estimate
    tone: Tone

    @classmethod
    def of(cls, estimate: Estimate, *, more_is_better: bool) -> Change:
        """The change with its tone: none without an interval, unclear when the interval contains 0."""
        if estimate.value is None or estimate.low is None or estimate.high is None:
            return cls(estimate, "none")
        if estimate.low <= 0 <= estimate.high:
            return cls(estimate, "unclear")
        return cls(estimate, "good" if (estimate.value > 0) == more_is_better else "bad")
