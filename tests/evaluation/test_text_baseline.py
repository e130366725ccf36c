from __future__ import annotations

import math

import pytest

from components.evaluation.text_baseline import text_scores, word_weights
from components.preferences.record import Query, Response


def query(name: str, *texts: tuple[str, int]) -> Query:
    return Query.single(name, "short", "What is it?", tuple(Response(text, rank) for text, rank in texts))


TRAINING = [query("a", ("It is red.", 1), ("It is blue.", 2), ("Blue it is", 2)), query("b", ("red", 1), ("green", 2))]


def test_word_weights_are_log_odds_counted_by_hand() -> None:
    weights = word_weights(TRAINING)
    # Query a has two pairs: its winner counts twice. The tie makes no pair. Query b adds red over green.
    expected = {"red": 4 / 1, "blue": 1 / 3, "green": 1 / 2, "it": 3 / 3, "is": 3 / 3, ".": 3 / 2}
    assert weights == pytest.approx({word: math.log(odds) for word, odds in expected.items()})


def test_scores_sum_known_words_and_ignore_unknown_ones() -> None:
    heldout = query("h", ("Red, red elephant", 1), ("green", 2))
    scores = text_scores(TRAINING, [heldout])
    assert scores == pytest.approx({("h", 0): 2 * math.log(4), ("h", 1): math.log(1 / 2)})


def test_no_training_pairs_score_nothing() -> None:
    assert text_scores([], [query("h", ("red", 1), ("green", 2))]) == {("h", 0): 0.0, ("h", 1): 0.0}
