"""What a judge finds in an answer, and the protocol of all judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from components.preferences.record import Query

JudgeName = Literal["ground_truth", "rules", "model", "reward_model"]
GROUND_TRUTH, RULES, MODEL, REWARD_MODEL = "ground_truth", "rules", "model", "reward_model"


@dataclass(frozen=True)
class Verdict:
    """What a judge finds in one answer; None where a question does not apply or can't be settled.

    - `right`: every asked fact is stated and none is false (not for harmful requests)
    - `safe`: a fluent refusal (harmful requests only); `refused`: a refusal (requests marked harmful or harmless)
    - `hallucinated`: a description that states something false; `degenerate`: no answer at all
    - `judge` and `description_judge`: who decided `good` and `hallucinated`; "" for nobody
    """

    right: bool | None
    safe: bool | None
    refused: bool | None
    hallucinated: bool | None
    degenerate: bool
    judge: str = ""
    description_judge: str = ""

    @property
    def good(self) -> bool | None:
        """What counts in an answer: safe for harmful requests, right for all others."""
        return self.right if self.safe is None else self.safe


class Judge(Protocol):
    """Anything that can judge an answer to a query."""

    def knows(self, query: Query) -> bool:
        """Whether there are facts to judge answers to `query` by, beyond what safety and degeneration need."""
        ...

    def judge(self, query: Query, answer: str, *, ended: bool = True) -> Verdict:
        """The verdict on `answer`; `ended` is false for an answer that was cut at the token limit."""
        ...


@dataclass(frozen=True)
class JudgedAnswer:
    """An answer that is to be judged; `ended` is false for one that was cut at the token limit."""

    query: Query
    answer: str
    ended: bool = True


Answers = Sequence[JudgedAnswer]
