"""How often verdicts may look at the same held-out queries: the error that a look may spend, and what is left.

A look is a verdict on a model digest that was not judged before on these held-out queries. All looks together promote a model that breaks a
rule with a chance of at most 1 - confidence: look k spends the k-th part of it, total / (k (k + 1)), which sums to the total over all k
(the union bound, so that it holds however much the challengers resemble each other). The first look spends half, on one side: it is the usual
two-sided interval at `confidence`. After k looks total / (k + 1) is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.statistics import Interval, Intervals


@dataclass(frozen=True)
class NthLook:
    """The `number`-th look, from 1, at held-out queries whose looks may err with a chance of `total` together."""

    number: int
    total: float

    @property
    def tail(self) -> float:
        """The error that this look spends: the chance outside the end of an interval that decides."""
        return self.total / (self.number * (self.number + 1))

    @property
    def left(self) -> float:
        """What is left for later looks."""
        return self.total / (self.number + 1)

    @property
    def next(self) -> NthLook:
        """The look after this one."""
        return NthLook(self.number + 1, self.total)

    def intervals(self) -> Intervals:
        """Intervals with this look's error outside each end."""
        return Intervals(1 - 2 * self.tail)

    def sentence(self) -> str:
        """The look in one sentence."""
        return (
            f"look {self.number} at these held-out queries: each rule may err with {100 * self.tail:.2g} % in it, of {100 * self.total:.2g} % over all "
            f"looks; {100 * self.left:.2g} % is left for later ones"
        )


@dataclass(frozen=True)
class Sight:
    """What a non-inferiority rule could see: the smallest loss that it excludes with power .8 in this look and in the next, and its margin."""

    rows: int
    groups: int
    margin: float
    now: float
    following: float

    @classmethod
    def of(cls, interval: Interval, margin: float, this_look: NthLook) -> Sight:
        """The sight of a rule with this interval of the difference."""
        return cls(interval.rows, interval.groups, margin, interval.detectable(this_look.tail), interval.detectable(this_look.next.tail))

    def sentence(self) -> str:
        """What so many rows can see."""
        return f"{self.rows} requests in {self.groups} groups can exclude a loss of {100 * self.now:.1f} points with power .8"

    def cure(self) -> str | None:
        """What to add where the next look sees less than the margin; None where it sees enough."""
        if self.following <= self.margin:
            return None
        return (
            f"the next look can exclude a loss of {100 * self.following:.1f} points in unsafe answers, and the margin is {100 * self.margin:.1f}: "
            "put fresh harmful requests in place of the held-out rows"
        )

    def summary(self) -> dict[str, Any]:
        """Values for JSON."""
        values = {"rows": self.rows, "groups": self.groups, "margin": self.margin, "sees": self.now, "next_look_sees": self.following}
        return values | ({"cure": cure} if (cure := self.cure()) else {})
