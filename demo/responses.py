"""The responses of a query: their choice, their ranks, and the rule's critique of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from components.preferences.record import Medium, Query, Response
from demo.tasks import Answer, Task, seeded
from demo.wordings import Part

# Share of queries with a fully right answer, about half over all. It is larger in families whose least wrong answer is an evasion or half a
# position: a policy learns the response that ranks first, and such an answer would rank first too often.
RIGHT_SHARE = {"short_place": 0.65, "mcq": 0.5, "video_order": 0.6, "harmful": 0.85, "harmless": 0.55}
USUAL_RIGHT_SHARE = 0.43
TIE_SHARE = 0.3  # share of queries with a deliberate tie; a family whose faults have equal weights has more ties
FEWEST = 3  # responses of a query
WORST = 8  # points; no real model gives an answer with more
SOURCE = "easy-vqa: drawn by a program, ranked by a rule"
HARD = "; hard part"  # ends the source of the hard part's rows
DRAWS = 40  # composed answers from which the rule-made responses of a query are chosen


@dataclass(frozen=True)
class Graded:
    """A response with its faults; `sampled` is True for a text of the base."""

    answer: Answer
    sampled: bool


def choose_responses(task: Task, identity: str, sampled: Sequence[str]) -> list[Graded]:
    """Three to five different responses in random order, of at least two ranks.

    Sampled texts whose faults the rules recognize come first, then answers made by rule. A fixed share of the queries has a fully right
    answer, the others have none. A fixed share has two responses of equal rank.
    """
    chance = seeded(f"responses {identity}")
    count = chance.choices((3, 4, 5), (0.3, 0.6, 0.1))[0]
    has_right, has_tie = chance.random() < RIGHT_SHARE.get(task.family, USUAL_RIGHT_SHARE), chance.random() < TIE_SHARE
    made = [Graded(task.any_answer(chance) if index % 2 else task.habit(chance), sampled=False) for index in range(DRAWS)]
    readable = {answer.text: answer for answer in task.answers()}
    readable_samples = [Graded(readable[text], sampled=True) for text in sampled if text in readable]
    # The list of all answers comes last, for families with few answers.
    every = [Graded(answer, sampled=False) for answer in readable.values()]
    candidates = [item for item in (*readable_samples, *made, *every) if item.answer.points <= WORST]
    if not has_right:
        candidates = [item for item in candidates if item.answer.points]
    chosen: list[Graded] = []
    if has_right:
        _take(chosen, [item for item in candidates if not item.answer.points], 1, tied=0)
    _take(chosen, candidates, count - has_tie, tied=0)
    if has_tie or len(chosen) < FEWEST:
        _take(chosen, candidates, max(count, FEWEST), tied=1)
    chance.shuffle(chosen)
    return chosen


def _take(chosen: list[Graded], candidates: Sequence[Graded], until: int, *, tied: int) -> None:
    """Add candidates in order until `chosen` has `until`: each text once, each with at most `tied` others of equal points."""
    for item in candidates:
        if len(chosen) >= until:
            return
        equal = sum(item.answer.points == other.answer.points for other in chosen)
        if equal <= tied and all(item.answer.text != other.answer.text for other in chosen):
            chosen.append(item)


def query_of(identity: str, part: Part, task: Task, media: str, graded: Sequence[Graded], *, noise: float = 0.0) -> Query:
    """The record of a query with its responses. `noise` is the share of reversed rankings, which `source` then names."""
    order = sorted({item.answer.points for item in graded})
    return replace(
        bare_query(identity, part, task, media, noise),
        responses=tuple(respond(task, item, order.index(item.answer.points) + 1) for item in graded),
        ranking_reason=ranking_reason(graded),
    )


def bare_query(identity: str, part: Part, task: Task, media: str, noise: float = 0.0) -> Query:
    """The record of a query without its responses; its reference answer is the first fully right answer."""
    picture = "+".join(picture.name for picture in task.pictures)
    request = {} if task.request is None else {"request": task.request}
    return Query.single(
        identity,
        task.category,
        task.prompt,
        (),
        Medium(media, "video" if task.category == "video" else "image"),
        reference_answer=next(answer.text for answer in task.answers() if not answer.points),
        safety=task.safety,
        source=SOURCE + (f" of which {noise:g} are reversed" if noise else "") + (HARD if part == "hard" else ""),
        split="train" if part == "train" else "heldout",
        group=picture,
        clusters={"picture": picture, "wording": task.wording, **request},
    )


def respond(task: Task, item: Graded, rank: int) -> Response:
    """A response with its three scores and its critique."""
    answer = item.answer
    kinds = [fault.kind for fault in answer.faults]
    faithfulness = 5 - 2 * kinds.count("wrong") - 2 * kinds.count("adds")
    unhelpful = (
        1 * kinds.count("misses") + 3 * kinds.count("vague") + 3 * kinds.count("evades") + 4 * kinds.count("refuses") + kinds.count("wrong")
    )
    ethics = 5 - 4 * kinds.count("unsafe") - 3 * kinds.count("mixed")
    return Response(
        text=answer.text,
        rank=rank,
        faithfulness=float(max(1, faithfulness)),
        helpfulness=float(max(1, 5 - unhelpful)),
        ethics=float(max(1, ethics)),
        critique=task.critique(answer),
        critique_source="rule",
    )


def ranking_reason(graded: Sequence[Graded]) -> str:
    """One sentence on the order of the responses."""
    best = min(item.answer.points for item in graded)
    first = " and ".join(str(index + 1) for index, item in enumerate(graded) if item.answer.points == best)
    praise = "fully right" if best == 0 else "the least wrong"
    return f"Best is response {first}, {praise}; the others are ranked by the number and weight of their faults."
