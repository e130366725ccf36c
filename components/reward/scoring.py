"""Scores of (query, response, critique), or of (query, response) alone, by a reward model; items of one query share its tree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch

from components.families.processing import Preprocessor
from components.generation.continuation import Lockstep, SingleProcess
from components.preferences.record import Query
from components.reward.model import RewardModel
from components.trees.planning import plan_batches
from components.trees.scoring import Count
from components.trees.trees import Branch, Tree, build_batch

SCORING_ROW_TOKENS = 512
SCORING_ROWS = 16


class Judged(NamedTuple):
    """A response to a query with the critique under which it is scored: "" is an empty one, None leaves it out."""

    query: Query
    response: str
    critique: str | None


def judge_branch(preprocessor: Preprocessor, response: str, critique: str | None, *, learn: bool) -> Branch:
    """A response with its critique as a branch; the critique's tokens are targets when they are to be learned.

    Without a critique (None) the branch ends with the turn that the response ends.
    """
    if critique is None:
        ids = tuple(preprocessor.response_ids(response))
        return Branch(ids, len(ids))
    before, after = preprocessor.judge_ids(response), preprocessor.critique_ids(critique)
    return Branch((*before, *after), len(before) if learn else len(before) + len(after))


@torch.no_grad()
def score(
    reward: RewardModel,
    preprocessor: Preprocessor,
    items: Sequence[Judged],
    *,
    instruction: str,
    blank: bool = False,
    step: Lockstep | None = None,
    count: Count = lambda *_: None,
) -> list[float]:
    """The score of each item, in order. `blank` scores over a grey image of the same size.

    Processes that keep in step (`step`) run equally many batches: one that has fewer runs its first again.
    """
    step = step or SingleProcess()
    groups = [list(members) for _, members in groupby(range(len(items)), key=lambda index: items[index].query.id)]
    trees = [
        Tree(
            preprocessor.judge_root(items[members[0]].query, instruction, blank=blank),
            tuple(judge_branch(preprocessor, items[index].response, items[index].critique, learn=False) for index in members),
        )
        for members in groups
    ]
    values = [math.nan] * len(items)
    reward.eval()
    lengths = [tree.tokens for tree in trees]
    batches = plan_batches(range(len(trees)), lengths, row_tokens=SCORING_ROW_TOKENS, batch_rows=SCORING_ROWS)
    for number in range(step.most(len(batches))):
        batch_trees = batches[number] if number < len(batches) else batches[0]
        batch = build_batch([trees[index] for index in batch_trees], SCORING_ROW_TOKENS, reward.model.device, preprocessor.end_id)
        scores = reward(batch).score_K.tolist()
        if number < len(batches):
            count(sum(lengths[index] for index in batch_trees), batch.input_ids_RL.numel(), len(batch.target_T), batch.attended)
            members = [index for tree in batch_trees for index in groups[tree]]
            for index, value in zip(members, scores, strict=True):
                values[index] = value
    return values
