"""The text-only baseline of ACC: a table of word counts orders held-out responses without a picture, a question or a model.

A word's weight is the logarithm of how often it stands in the better response of a training pair over how often in the worse one, each count
plus one. A response scores the sum of its words' weights. A reward model that does no better has learned words alone.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from components.preferences.record import Query

_TOKEN = re.compile(r"\w+|[^\w\s]")


def word_weights(queries: Iterable[Query]) -> dict[str, float]:
    """Each word's log-odds of standing in the better response, over all rank-different pairs of `queries`."""
    better: Counter[str] = Counter()
    worse: Counter[str] = Counter()
    for query in queries:
        words = [_words(response.text) for response in query.responses]
        for winner, loser in query.pairs():
            better.update(words[winner])
            worse.update(words[loser])
    return {word: math.log((better[word] + 1) / (worse[word] + 1)) for word in better.keys() | worse.keys()}


def text_scores(training: Iterable[Query], heldout: Sequence[Query]) -> dict[tuple[str, int], float]:
    """The baseline's score of every held-out response, by query id and response index. A word that training lacks counts nothing."""
    weights = word_weights(training)
    return {
        (query.id, index): math.fsum(weights.get(word, 0.0) for word in _words(response.text))
        for query in heldout
        for index, response in enumerate(query.responses)
    }


def _words(text: str) -> list[str]:
    return _TOKEN.findall(text.lower())
