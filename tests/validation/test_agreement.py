"""How many pairs may contradict their scores before a file is refused, by hand calculation of the lower bound."""

from __future__ import annotations

import pytest

from components.errors import UserError
from components.preferences.record import Response
from components.validation.agreement import check_agreement, scored_pairs
from components.validation.summary import Summary


def summary(scored: int, contradicting: int) -> Summary:
    values = dict.fromkeys(Summary._fields, 0) | {"line": 7, "pairs": scored, "scored": scored, "contradicting": contradicting}
    return Summary(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scored", "contradicting", "refused"), [(15, 5, False), (15, 15, True), (300, 100, False), (300, 105, True), (0, 0, False)]
)
def test_share_is_refused_once_it_is_surely_past(scored: int, contradicting: int, refused: bool) -> None:
    # The lower 95 % bounds: 5 of 15 .164, 15 of 15 .847, 100 of 300 .291, 105 of 300 .306.
    rows = [summary(scored, contradicting), summary(0, 0)._replace(pairs=1)]
    if not refused:
        check_agreement("data.jsonl", rows, 0.3)
        return
    with pytest.raises(UserError, match=f"contradict the scores in {contradicting} of {scored} pairs .* first in line 7: rank 1"):
        check_agreement("data.jsonl", rows, 0.3)


def test_pair_contradicts_by_the_sum_of_scores_that_both_have() -> None:
    better = Response("a", 1, faithfulness=2.0, helpfulness=5.0)
    worse = Response("b", 2, faithfulness=4.0, ethics=1.0)
    assert scored_pairs([better, worse], [1, 2]) == (1, 1), "faithfulness alone is common to both"
    assert scored_pairs([better, worse], [1, 1]) == (0, 0)
    assert scored_pairs([better, Response("c", 2)], [1, 2]) == (0, 0)
    assert scored_pairs([better, Response("a", 2, faithfulness=5.0)], [1, 2]) == (0, 0), "the same text"
