"""Do ranks and scores of a file say the same? A ranking turned round trains the opposite of what people chose.

- A pair is scored if both responses have a score of one kind. It contradicts if the winner's sum of such scores is lower than the loser's.
- A list such as [3, 1, 2] may give the rank of each response, or the responses' numbers from best to worst. Only lists without ties can be
  the latter, and the scores of all rows together decide; where they can't, a person has to.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from components.errors import UserError
from components.preferences.ranking import Listed, order_to_ranks
from components.preferences.record import Response
from components.preferences.texts import visible
from components.statistics import wilson

if TYPE_CHECKING:
    from components.validation.summary import Summary

LINES_SHOWN = 3
CONFIDENCE = 0.95  # of the lower bound of a file's share of contradictions


def scored_pairs(responses: Sequence[Response], ranks: Sequence[int]) -> tuple[int, int]:
    """The pairs of different ranks and texts that have scores, and how many of them contradict those."""
    scored = contradicting = 0
    texts = [visible(response.text) for response in responses]
    for a, b in combinations(range(len(responses)), 2):
        if ranks[a] == ranks[b] or texts[a] == texts[b]:
            continue
        better, worse = (a, b) if ranks[a] < ranks[b] else (b, a)
        both = zip(_scores(responses[better]), _scores(responses[worse]), strict=True)
        differences = [of_better - of_worse for of_better, of_worse in both if of_better is not None and of_worse is not None]
        scored += bool(differences)
        contradicting += sum(differences) < 0
    return scored, contradicting


def read_as_order(ranks: Sequence[int]) -> list[int] | None:
    """The ranks if the list was an order of the responses; None if it can't be one."""
    return order_to_ranks(list(ranks)) if sorted(ranks) == list(range(1, len(ranks) + 1)) else None


def decide_listed(file: str, rows: Sequence[Summary], limit: float) -> Listed:
    """What the lists in final_ranking mean, from the rows as read with ranks. Raises UserError if nothing decides.

    An order can't have ties, so that one tie in a list decides for ranks. Else the scores decide, over the rows that both readings order differently.
    """
    if any(row.list_ties for row in rows):
        return "ranks"
    doubtful = [row for row in rows if row.list_doubtful]
    if not doubtful:
        return "ranks"
    ranks, order = sum(row.contradicting for row in doubtful), sum(row.contradicting_as_order for row in doubtful)
    scored = sum(row.scored for row in doubtful)
    if not scored:
        lines = _lines(doubtful)
        raise UserError(
            f"{file}: the lists in final_ranking may give each response's rank or the responses' numbers from best to worst, and no score or tie"
            f" says which ({lines}): set validate.ranking to ranks or to order (mmalign configure --set validate.ranking=ranks)"
        )
    return "order" if order < ranks and ranks > limit * scored else "ranks"


def check_agreement(file: str, rows: Sequence[Summary], limit: float) -> None:
    """Raises UserError if more than `limit` of the scored pairs contradict their scores, or if no row ranks one response above another.

    The share is surely past the limit only if its lower bound is: five pairs of fifteen say little of a file.
    """
    if rows and not any(row.pairs for row in rows):
        raise UserError(
            f"{file}: none of {len(rows)} rows ranks one response above a different one, so that nothing can be learned or measured"
            f" ({_lines(rows)}): write ranks that differ into final_ranking"
        )
    scored, contradicting = sum(row.scored for row in rows), sum(row.contradicting for row in rows)
    if scored and wilson(contradicting, scored, CONFIDENCE)[0] > limit:
        examples = _lines([row for row in rows if row.contradicting])
        raise UserError(
            f"{file}: ranks contradict the scores in {contradicting} of {scored} pairs ({contradicting / scored:.1%},"
            f" validate.max_contradictions allows {limit:.1%}), first in {examples}: rank 1 must be the best response; set validate.ranking to order"
            " if lists name the best response first"
        )


def _scores(response: Response) -> tuple[float | None, float | None, float | None]:
    return response.faithfulness, response.helpfulness, response.ethics


def _lines(rows: Sequence[Summary]) -> str:
    numbers = [str(row.line) for row in rows[:LINES_SHOWN]]
    return f"line {numbers[0]}" if len(numbers) == 1 else f"lines {', '.join(numbers[:-1])} and {numbers[-1]}"
