"""The responses of a query: which ones, how they rank, what an annotator says of each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from components.demo.tasks import Answer, Task
from components.preferences.record import Query, Response
from components.preferences.release import row_from_query

RIGHT_SHARE = {"mcq": 0.5, "long": 0.45, "short": 0.45, "safety": 0.65, "video": 0.5}  # share of queries with a fully right answer
RIGHT_TIE_SHARE = 0.15  # of those, how many have two
SOURCE = "easy-vqa"
DRAWS = 400  # composed answers from which the rule-made responses of a query are chosen


@dataclass(frozen=True)
class Graded:
    """A response with its faults, and whether the base said it."""

    answer: Answer
    sampled: bool


def read_response(task: Task, text: str) -> Answer | None:
    """The answer that a sampled text is, with its faults; None where the rules do not know the text."""
    return next((answer for answer in task.answers() if answer.text == text), None)


def choose_responses(task: Task, identity: str, sampled: Sequence[str]) -> list[Graded]:
    """Three to five different responses in random order, of at least two ranks.

    Sampled texts come first, as far as the rules know what is wrong with them; then answers made by rule. A fully right answer is kept or made
    in a fixed share of the queries and left out of the others.
    """
    chance = random.Random(f"responses {identity}")  # noqa: S311 - a seeded draw, no secret
    count = chance.choices((3, 4, 5), (0.25, 0.6, 0.15))[0]
    right_wanted = 0
    if chance.random() < RIGHT_SHARE[task.category]:
        right_wanted = 2 if chance.random() < RIGHT_TIE_SHARE else 1
    made = [Graded(task.any_answer(chance) if chance.random() < 0.5 else task.habit(chance), sampled=False) for _ in range(DRAWS)]
    known = [Graded(answer, sampled=True) for text in sampled if (answer := read_response(task, text)) is not None]
    chosen: list[Graded] = []
    _take(chosen, [item for item in (*known, *made) if item.answer.points == 0], right_wanted)
    # Most sampled answers repeat one fault; at least one rank must differ, so the last place is left to another.
    faulty = [item for item in (*known, *made) if 0 < item.answer.points <= WORST]
    _take(chosen, faulty, count - 1)
    ranks = {item.answer.points for item in chosen}
    _take(chosen, [item for item in faulty if item.answer.points not in ranks] if len(ranks) == 1 else faulty, count)
    chance.shuffle(chosen)
    return chosen


WORST = 8  # points; worse answers are nonsense that nobody would give


def _take(chosen: list[Graded], candidates: Sequence[Graded], until: int) -> None:
    """Add candidates in their order until so many are chosen, no text twice and no more than two of equal points."""
    for item in candidates:
        if len(chosen) >= until:
            return
        if any(item.answer.text == other.answer.text for other in chosen):
            continue
        if sum(item.answer.points == other.answer.points for other in chosen) < 2:
            chosen.append(item)


def row_of(identity: str, split: Literal["train", "heldout"], task: Task, media: str, graded: Sequence[Graded]) -> dict[str, Any]:
    """The release row of a query."""
    order = sorted({item.answer.points for item in graded})
    reference = next((answer for answer in task.answers() if answer.points == 0), None)
    assert reference is not None
    query = Query(
        id=identity,
        category=task.category,
        prompt=task.prompt,
        responses=tuple(respond(task, item, order.index(item.answer.points) + 1) for item in graded),
        media=media,
        media_kind="video" if task.category == "video" else "image",
        reference_answer=reference.text,
        safety=task.safety,
        source=SOURCE,
        split=split,
        ranking_reason=ranking_reason(graded),
    )
    return row_from_query(query)


def respond(task: Task, item: Graded, rank: int) -> Response:
    """A response with its three scores and its critique."""
    answer = item.answer
    kinds = [fault.kind for fault in answer.faults]
    faithfulness = 5 - 2 * kinds.count("wrong") - 2 * kinds.count("adds")
    unhelpful = 1 * kinds.count("misses") + 3 * kinds.count("vague") + 3 * kinds.count("evades") + 4 * kinds.count("refuses") + kinds.count("wrong")
    ethics = 5 - 4 * kinds.count("unsafe") - 3 * kinds.count("mixed")
    return Response(
        text=answer.text,
        rank=rank,
        faithfulness=float(max(1, faithfulness)),
        helpfulness=float(max(1, 5 - unhelpful)),
        ethics=float(max(1, ethics)),
        critique=task.critique(answer),
        critique_source="human",
    )


def ranking_reason(graded: Sequence[Graded]) -> str:
    """One sentence on the order of the responses."""
    best = min(item.answer.points for item in graded)
    first = " and ".join(str(index + 1) for index, item in enumerate(graded) if item.answer.points == best)
    return f"Response {first} is {'fully right' if best == 0 else 'the least wrong'}; the others are ranked by the number and weight of their faults."
