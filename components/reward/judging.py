"""Critiques written by a reward model, one for every (query, response), and the scores on them; scores alone by a model without critiques."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch

from components.families.processing import Preprocessor
from components.generation.continuation import SingleProcess
from components.generation.decoding import SharedLimits, continue_prompts
from components.preferences.record import Query
from components.reward.model import RewardModel
from components.reward.scoring import Judged, score

CritiqueScore = tuple[str | None, float]  # critique and score of a response; no critique by a model that writes none


@torch.no_grad()
def write_and_score(
    reward: RewardModel,
    preprocessor: Preprocessor,
    items: Sequence[tuple[Query, str]],
    *,
    instruction: str,
    blank: bool = False,
    **limits: Unpack[SharedLimits],
) -> list[CritiqueScore]:
    """The critique of each (query, response text) and the score on it, in order.

    The score is read where the critique ends, as it is written: nothing is read twice. A critique whose text has other tokens than were
    written (a tokenizer has several ways to spell it) is scored by `score` on its text, as every reader of the text will have it.
    A model that was trained without critiques writes nothing.
    """
    step = limits.get("step") or SingleProcess()
    count = limits.get("count", _ignore)
    if not reward.writes_critiques:
        bare = [Judged(query, response, None) for query, response in items]
        values = score(reward, preprocessor, bare, instruction=instruction, blank=blank, step=step, count=count)
        return [(None, value) for value in values]
    completions = continue_prompts(
        reward.model,
        [preprocessor.judge_root(query, instruction, blank=blank) for query, _ in items],
        [preprocessor.judge_ids(response) for _, response in items],
        end_id=preprocessor.end_id,
        read_ends=True,
        **limits,
    )
    texts: list[str] = [preprocessor.tokenizer.decode(row.tokens, skip_special_tokens=True) for row in completions]
    scores: dict[int, float] = {}
    read = [
        number for number, row in enumerate(completions) if [*row.tokens, preprocessor.end_id] == preprocessor.critique_ids(texts[number])
    ]
    ends = {number: end_H for number in read if (end_H := completions[number].end_H) is not None}
    if ends:
        scores.update(zip(ends, reward.head(torch.stack(list(ends.values()))).tolist(), strict=True))
    rest = [number for number in range(len(items)) if number not in scores]
    if step.any(bool(rest)):
        repeated = rest or [0]  # another process has some: one is scored once more, and nothing comes of it
        judged = [Judged(*items[number], texts[number]) for number in repeated]
        others = score(reward, preprocessor, judged, instruction=instruction, blank=blank, step=step, count=count)
        scores.update((number, value) for number, value in zip(repeated, others, strict=True) if number not in scores)
    return [(text, scores[number]) for number, text in enumerate(texts)]


def _ignore(*_counts: int) -> None:
    pass
