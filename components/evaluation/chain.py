"""The chain of judges (`evaluate.judges`): each question goes to the first judge that has a verdict, so what one leaves open the next decides.

- `ground_truth` decides alone on queries with ground truth. Others follow field by field: the rules may see a refusal and leave the rest to a
  model.
- A model is asked about the rest of all answers at once, in `prepare`; without it, `judge` asks one by one.
- `reward_model` gives no verdict of its own. It prefers one answer over another (components/evaluation/preferences.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from components.checkout import Checkout
from components.errors import UserError
from components.evaluation.judge import GroundTruthJudge, is_description, read_ground_truth
from components.evaluation.model_judge import ModelJudge
from components.evaluation.rule_judge import RuleJudge
from components.evaluation.verdict import GROUND_TRUTH, MODEL, REWARD_MODEL, RULES, Judge, JudgedAnswer, Verdict
from components.evaluation.wording import is_degenerate
from components.preferences.record import Query

if TYPE_CHECKING:
    from components.config.settings import Settings


class Chain:
    """Judges in their order, by name."""

    def __init__(self, judges: dict[str, Judge]) -> None:
        self.judges = judges

    def knows(self, query: Query) -> bool:
        """Whether a judge of the chain can say what is right of answers to `query`."""
        return any(judge.knows(query) for judge in self.judges.values())

    def has_ground_truth(self, query: Query) -> bool:
        """Whether the ground truth decides alone on `query`."""
        judge = self.judges.get(GROUND_TRUTH)
        return judge is not None and judge.knows(query)

    def reads_requests(self, query: Query) -> bool:
        """Whether `query` is marked harmful or harmless, and a judge of the chain reads how it is answered."""
        return query.safety is not None and (self.has_ground_truth(query) or not {RULES, MODEL}.isdisjoint(self.judges))

    def reads_descriptions(self, query: Query) -> bool:
        """Whether a judge of the chain can say that a description of `query` states something false."""
        return is_description(query) and query.safety != "harmful" and (self.has_ground_truth(query) or MODEL in self.judges)

    def prepare(self, answers: Sequence[JudgedAnswer]) -> None:
        """Have the model judge, where there is one, decide on all that the judges before it leave open; the cost is printed first."""
        model = self.judges.get(MODEL)
        if isinstance(model, ModelJudge):
            model.prepare([one for one in answers if not self._is_decided(one)])

    def judge(self, query: Query, answer: str, *, ended: bool = True) -> Verdict:
        """See `Verdict`."""
        return self._judge(query, answer, ended=ended, before=None)

    def _is_decided(self, one: JudgedAnswer) -> bool:
        verdict = self._judge(one.query, one.answer, ended=one.ended, before=MODEL)
        return verdict.good is not None and (verdict.hallucinated is not None or not is_description(one.query))

    def _judge(self, query: Query, answer: str, *, ended: bool, before: str | None) -> Verdict:
        merged = Verdict(None, None, None, None, is_degenerate(answer, ended=ended))
        for name, judge in self.judges.items():
            if name == before:
                break
            if name == GROUND_TRUTH and not judge.knows(query):
                continue
            verdict = judge.judge(query, answer, ended=ended)
            if name == GROUND_TRUTH:
                by = GROUND_TRUTH if verdict.good is not None else ""
                return replace(verdict, judge=by, description_judge=GROUND_TRUTH if verdict.hallucinated is not None else "")
            merged = _merge(merged, verdict, name)
            if merged.good is not None and not is_description(query):
                break
        return merged


def _merge(one: Verdict, other: Verdict, name: str) -> Verdict:
    decides = one.good is None and other.good is not None
    describes = one.hallucinated is None and other.hallucinated is not None
    return Verdict(
        right=other.right if decides else one.right,
        safe=other.safe if decides else one.safe,
        refused=other.refused if one.refused is None else one.refused,
        hallucinated=other.hallucinated if describes else one.hallucinated,
        degenerate=one.degenerate,
        judge=name if decides else one.judge,
        description_judge=name if describes else one.description_judge,
    )


def load_chain(settings: Settings, checkout: Checkout) -> Chain:
    """The judges that `evaluate.judges` names, in its order. Without a file of ground truth that judge has nothing to say."""
    judges: dict[str, Judge] = {}
    for name in settings.evaluate.judges:
        if name != REWARD_MODEL:
            judges[name] = open_judge(name, settings, checkout)
    return Chain(judges)


def open_judge(name: str, settings: Settings, checkout: Checkout) -> Judge:
    """One judge by its name. Raises UserError for one that gives no verdicts."""
    if name == GROUND_TRUTH:
        return GroundTruthJudge(read_ground_truth(checkout.ground_truth))
    if name == RULES:
        return RuleJudge()
    if name == MODEL:
        return ModelJudge.from_settings(settings, checkout)
    raise UserError(
        f"judge '{name}' gives no verdicts that labels could be compared with: name ground_truth, rules or model "
        "(the reward model's error is reward.acc, which every evaluation measures on held-out pairs)"
    )
