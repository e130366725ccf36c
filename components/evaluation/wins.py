"""Which of two policies' answers is better, where no verdicts say it: by the model judge, and by the reward model over all held-out queries.

The reward model is what the policy was trained on: its preference shows that training did what it was set to do, not that people agree.
`policy.win_rate` takes it only where no other judge compares the two policies, and `policy.win_rate_by_reward_model` is then 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from components.checkout import Checkout
from components.config.settings import Settings
from components.evaluation.answers import Answered
from components.evaluation.chain import Chain
from components.evaluation.judge import GroundTruthJudge, read_ground_truth
from components.evaluation.metrics import Metrics, win_rate
from components.evaluation.model_judge import ModelJudge
from components.evaluation.verdict import GROUND_TRUTH, MODEL, REWARD_MODEL
from components.preferences.record import Query, read_queries
from components.statistics import Intervals


def asks_reward_model(settings: Settings, checkout: Checkout) -> bool:
    """Whether the reward model judges all answers: `evaluate.judges` names it, and a held-out query has no ground truth."""
    if REWARD_MODEL not in settings.evaluate.judges:
        return False
    ground_truth = GroundTruthJudge(read_ground_truth(checkout.ground_truth) if GROUND_TRUTH in settings.evaluate.judges else {})
    return not all(ground_truth.knows(query) for query in read_queries(checkout.queries("heldout")))


def model_preferences(chain: Chain, queries: Sequence[Query], base: Answered, aligned: Answered) -> list[float | None]:
    """The model judge's preference for the aligned policy's answer (1, .5 or 0) where verdicts on both are missing; None elsewhere."""
    preferences: list[float | None] = [None] * len(queries)
    model = chain.judges.get(MODEL)
    if isinstance(model, ModelJudge):
        pairs = zip(base.verdicts, aligned.verdicts, strict=True)
        chosen = [index for index, (b, a) in enumerate(pairs) if a.good is None or b.good is None]
        values = model.prefer([(queries[index], aligned.answers[index], base.answers[index]) for index in chosen])
        for index, value in zip(chosen, values, strict=True):
            preferences[index] = value
    return preferences


def reward_win_metrics(
    metrics: Metrics, queries: Sequence[Query], base: Sequence[float], aligned: Sequence[float], intervals: Intervals
) -> None:
    """Add `policy.win_rate_reward_model` (a tie is half), and let it stand for `policy.win_rate` where no judge compared the policies."""
    outcomes = [float(new > old) - float(new < old) for old, new in zip(base, aligned, strict=True)]
    metrics.update(win_rate("policy.win_rate_reward_model", outcomes, [query.clusters for query in queries], intervals))
    metrics["policy.compared_reward_model"] = len(outcomes)
    stands_in = metrics.get("policy.win_rate") is None and bool(outcomes)
    metrics["policy.win_rate_by_reward_model"] = int(stands_in)
    if stands_in:
        for end in ("", "_low", "_high"):
            metrics[f"policy.win_rate{end}"] = metrics[f"policy.win_rate_reward_model{end}"]
        print("evaluate: no other judge compares the two policies: policy.win_rate is the reward model's, which the policy was trained on")
