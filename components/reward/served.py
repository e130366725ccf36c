"""Judgements whose critiques a server wrote: the trees score them, prompt and picture read once for all responses of a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from components.endpoints.writer import Written
from components.families.processing import Preprocessor
from components.generation.continuation import SingleProcess
from components.generation.decoding import SharedLimits
from components.preferences.record import Query
from components.reward.judging import CritiqueScore, write_and_score
from components.reward.model import RewardModel
from components.reward.scoring import Judged, score


def score_served(
    reward: RewardModel,
    preprocessor: Preprocessor,
    items: Sequence[tuple[Query, str]],
    texts: Sequence[Written | None],
    *,
    instruction: str,
    blank: bool = False,
    **limits: Unpack[SharedLimits],
) -> list[CritiqueScore]:
    """The critique of each (query, response) and the score on it, in order; an item without a text is written here.

    Ranks in lockstep both score and write as soon as one of them has to: one that has nothing repeats its first item.
    """
    step = limits.get("step") or SingleProcess()
    judgements: dict[int, CritiqueScore] = {}
    served = [(number, text.text) for number, text in enumerate(texts) if text is not None]
    if step.any(bool(served)):
        judged = [Judged(*items[number], text) for number, text in served or [(0, "")]]
        shared = {name: value for name, value in limits.items() if name == "count"}
        scores = score(reward, preprocessor, judged, instruction=instruction, blank=blank, step=step, **shared)  # type: ignore[arg-type]
        judgements.update((number, (text, value)) for (number, text), value in zip(served, scores, strict=False))
    local = [number for number, text in enumerate(texts) if text is None]
    if step.any(bool(local)):
        rest = [items[number] for number in local or [0]]
        written = write_and_score(reward, preprocessor, rest, instruction=instruction, blank=blank, **limits)
        judgements.update(zip(local, written, strict=False))
    return [judgements[number] for number in range(len(items))]
