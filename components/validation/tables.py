"""The two tables of the suites, one row a query and one row a response.

Data docs print values without escaping them, so no text of the data enters a table: lengths replace texts, and ids are escaped.
"""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

from components.preferences.record import Query, Response
from components.validation.summary import content_key


def query_table(queries: Sequence[Query]) -> pd.DataFrame:
    """One row a query: its labels, its counts, and the number of splits with its id, its content and its category."""
    splits_of_id, splits_of_content, splits_of_category = defaultdict(set), defaultdict(set), defaultdict(set)
    for query in queries:
        splits_of_id[query.id].add(query.split)
        splits_of_content[content_key(query)].add(query.split)
        splits_of_category[query.category].add(query.split)
    return pd.DataFrame(
        {
            "id": html.escape(query.id),
            "split": query.split,
            "category": query.category,
            "safety": query.safety,
            "media_kind": " ".join(query.kinds) or None,
            "media_digest": " ".join(medium.digest or "none" for medium in query.media) or None,
            "prompt_characters": len(query.prompt),
            "responses": len(query.responses),
            "pairs": len(query.pairs()),
            "has_tie": int(bool(query.ties())),
            "best_is_longest": int(_best_is_longest(query.responses)),
            "content": content_key(query),
            "splits_of_id": len(splits_of_id[query.id]),
            "splits_of_content": len(splits_of_content[content_key(query)]),
            "splits_of_category": len(splits_of_category[query.category]),
        }
        for query in queries
    )


def response_table(queries: Sequence[Query]) -> pd.DataFrame:
    """One row a response: its index, rank, length, scores, and the length of its reason (null without one)."""
    return pd.DataFrame(
        {
            "id": html.escape(query.id),
            "response": index,
            "split": query.split,
            "responses": len(query.responses),
            "rank": response.rank,
            "characters": len(response.text),
            "faithfulness": response.faithfulness,
            "helpfulness": response.helpfulness,
            "ethics": response.ethics,
            "reason_characters": len(response.critique) if response.critique else None,
        }
        for query in queries
        for index, response in enumerate(query.responses)
    )


def _best_is_longest(responses: Sequence[Response]) -> bool:
    best = min(responses, key=lambda response: response.rank)
    return all(len(best.text) > len(other.text) for other in responses if other.rank > best.rank)
