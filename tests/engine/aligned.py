"""The real alignment task on tiny queries, in steps where ranks have different media: a text beside an image, two kinds beside one."""

from __future__ import annotations

from components.alignment.task import AlignmentTask
from components.engine import loop
from components.engine.task import Step, TrainingRank

# [rank][micro-batch][query]: 0 square image, 1 tall image, 2 text, 3 and 4 videos of unequal length
STEPS = [[[[0]], [[2]]], [[[2]], [[1, 3]]], [[[0, 3, 4]], [[1]]], [[[2], [4]], [[3], [0]]]]


class MixedTask(AlignmentTask):
    """Takes STEPS, on one rank all of a step's queries in one micro-batch."""

    def epoch_plan(self, epoch: int) -> list[Step]:  # noqa: ARG002
        plans = (
            STEPS if self.settings.training.ranks == 2 else [[[[q for rank in step for micro in rank for q in micro]]] for step in STEPS]
        )
        return [self._step(plan) for plan in plans]


def train(rank: TrainingRank) -> None:
    loop.train(MixedTask, rank)
