"""Reverses rankings, for a trial of noisy preferences: `mmalign demo build --noise .25`.

Only ranks change. Scores, critiques and ground truth stay as the rule gave them, as people who disagree leave a picture as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from components.preferences.record import Query
from demo.tasks import seeded


def reverse_share(queries: Sequence[Query], share: float) -> list[Query]:
    """The queries in their order, a drawn `share` of them with their ranking reversed. The same share of the same queries draws the same."""
    chosen = set(seeded("noise").sample(range(len(queries)), round(share * len(queries))))
    return [reverse(query) if index in chosen else query for index, query in enumerate(queries)]


def reverse(query: Query) -> Query:
    """The query with its best response ranked last, ties kept."""
    last = max(response.rank for response in query.responses)
    responses = tuple(replace(response, rank=last + 1 - response.rank) for response in query.responses)
    return replace(query, responses=responses, ranking_reason="This ranking was reversed, as noise.")
