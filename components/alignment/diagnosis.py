"""What became of training pairs, from their log-probs before and after: the signs of a preference training gone wrong.

DPO's loss falls as well when both responses of a pair grow unlikely, as long as the rejected one does so faster. Some of that is usual. Much
of it means that the likelihood went to texts that nobody ranked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from components.alignment.betas import Array
from components.alignment.pairs import PairTable, Scores, pair_ids
from components.alignment.reference_table import LogProb
from components.errors import TrainingFault
from components.preferences.record import Query

FELL = 0.5  # nats a token; by so much on average, a token of a response is 0.6 times as likely as it was
COLLAPSED = 3.0  # nats a token; a token of a chosen response is a twentieth as likely as it was
CHANCE = 0.55  # share of pairs in the right order up to which the order carries no more than a coin does
COLLAPSED_STEPS = 10  # steps in a row that must show a collapse: one step's pairs are few
CURE = "Lower alignment.learning_rate, or raise alignment.beta or alignment.sft_weight"


@dataclass(frozen=True)
class Outcome:
    """Means over the pairs of the diagnosed training queries: change of log-prob in nats a token, share in the right order, share where both responses fell.

    `gained_length` is the number of tokens by which the response that gained on the other is the longer one, `chosen_length` that by which
    the chosen one is. The order is that of log-ratio sums, as in the loss's default.
    """

    chosen: float
    rejected: float
    accuracy: float
    both_fell: float
    gained_length: float
    chosen_length: float

    def metrics(self) -> dict[str, float]:
        """The means by the names under which they are recorded."""
        return {
            "log_ratio.chosen": self.chosen,
            "log_ratio.rejected": self.rejected,
            "signs.accuracy": self.accuracy,
            "signs.both_fell": self.both_fell,
            "signs.gained_length": self.gained_length,
            "signs.chosen_length": self.chosen_length,
        }


def collapsed(chosen: float, accuracy: float) -> bool:
    """Whether a policy collapsed: chosen responses became COLLAPSED nats a token less likely while pairs are ordered as by a coin.

    A model that merely moved far is not that, and one that merely learned no order isn't either.
    """
    return chosen < -COLLAPSED and accuracy <= CHANCE


class CollapseWatch:
    """Counts the steps in a row whose metrics show a collapse."""

    def __init__(self) -> None:
        self.steps = 0

    def see(self, step: int, sums: dict[str, float]) -> None:
        """Look at the metrics of a step (counted from 0). Raises TrainingFault after COLLAPSED_STEPS bad ones."""
        chosen, accuracy = sums["log_ratios/chosen"], sums["rewards/accuracy"]
        self.steps = self.steps + 1 if collapsed(chosen, accuracy) else 0
        if self.steps >= COLLAPSED_STEPS:
            raise TrainingFault(f"{_collapse(chosen, accuracy)} at step {step + 1}, and in the {self.steps - 1} before it. {CURE}")


def outcome_of(pairs: PairTable, queries: Sequence[Query], policy: Scores, reference: Mapping[tuple[str, int], LogProb]) -> Outcome:
    """Compare the log-prob sums of the finished policy with the reference's, pair by pair, over the pairs of queries that `policy` has."""
    rows = zip(pair_ids(pairs, queries), pairs.winner.tolist(), pairs.loser.tolist(), strict=True)
    measured = [row for row in rows if (row[0], row[1]) in policy]
    chosen, chosen_tokens = _ratios([(identity, winner) for identity, winner, _ in measured], policy, reference)
    rejected, rejected_tokens = _ratios([(identity, loser) for identity, _, loser in measured], policy, reference)
    longer = chosen_tokens - rejected_tokens
    return Outcome(
        chosen=float(np.mean(chosen / chosen_tokens)),
        rejected=float(np.mean(rejected / rejected_tokens)),
        accuracy=float(np.mean(chosen > rejected)),
        both_fell=float(np.mean((chosen < 0) & (rejected < 0))),
        gained_length=float(np.mean(np.sign(chosen - rejected) * longer)),
        chosen_length=float(np.mean(longer)),
    )


def warnings_of(outcome: Outcome) -> list[str]:
    """Sentences about what the user should look at; none for a sound training.

    Raises TrainingFault where the policy collapsed, or a log-prob is not a number.
    """
    if not np.isfinite([outcome.chosen, outcome.rejected]).all():
        raise TrainingFault("the trained policy gives log-probs that are not finite; its model was removed: lower alignment.learning_rate")
    if collapsed(outcome.chosen, outcome.accuracy):
        raise TrainingFault(f"{_collapse(outcome.chosen, outcome.accuracy)}; its model was removed. {CURE}")
    if outcome.chosen < -FELL and outcome.rejected < -FELL:
        return [
            f"chosen responses became {-outcome.chosen:.2f} and rejected ones {-outcome.rejected:.2f} nats a token less likely: the "
            "likelihood went to texts that nobody ranked; raise alignment.sft_weight or alignment.beta, or lower alignment.learning_rate"
        ]
    return []


def _collapse(chosen: float, accuracy: float) -> str:
    return (
        f"the policy collapsed: chosen responses are {-chosen:.1f} nats a token less likely than under the base, and only {accuracy:.0%} of the "
        "pairs are in the right order"
    )


def _ratios(keys: list[tuple[str, int]], policy: Scores, reference: Mapping[tuple[str, int], LogProb]) -> tuple[Array, Array]:
    ratios = np.array([policy[key] - reference[key][0] for key in keys])
    return ratios, np.array([reference[key][1] for key in keys], dtype=np.float64)
