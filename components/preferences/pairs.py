"""The release's `dpo_pairs.jsonl`: one row a pair of different ranks. Converts records to pairs and back.

A pair names the better of two responses, but no ties and no scores. All pairs of a query restore its weak order: a response's rank is one more
than the number of responses that beat it. A response that ties with all others has no pair and is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from components.preferences.faults import RowError, wrong_type
from components.preferences.record import Query
from components.preferences.release import query_from_row
from components.preferences.turns import CONVERSATIONS, media_fields, turn_fields

TEXT_FIELDS = ("id", "chosen", "rejected")
QUERY_FIELDS = (*CONVERSATIONS, "image", "video")


def pairs_from_query(query: Query) -> list[dict[str, Any]]:
    """All pair rows of a query, in the order of its responses."""
    turns = turn_fields(query, "prompt")
    media = {kind: paths for kind, paths in media_fields(query).items() if paths}
    rows = []
    for winner, loser in query.pairs():
        chosen, rejected = query.responses[winner], query.responses[loser]
        row = {"id": query.id, **turns, "chosen": chosen.text, "rejected": rejected.text, **media}
        row |= {"chosen_reason": chosen.critique or "", "rejected_reason": rejected.critique or "", "category": query.category}
        rows.append(row)
    return rows


def queries_from_pairs(rows: Iterable[Mapping[str, Any]], split: Literal["train", "heldout"] = "train") -> list[Query]:
    """The queries of these pairs, in the order of their first pairs.

    Raises RowError for a row that is no pair, and for pairs that contradict every ranking (a circle, or a missing pair).
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        for field in TEXT_FIELDS:
            if not isinstance(row.get(field), str):
                raise wrong_type(field, row.get(field), "text")
        key = [row["id"], row.get("prompt"), *(row.get(name) or None for name in QUERY_FIELDS)]
        groups.setdefault(json.dumps(key), []).append(row)
    return [_query(group, split) for group in groups.values()]


def _query(rows: list[Mapping[str, Any]], split: Literal["train", "heldout"]) -> Query:
    reasons: dict[str, str] = {}
    for row in rows:
        for side in ("chosen", "rejected"):
            reasons[row[side]] = row.get(f"{side}_reason") or reasons.get(row[side], "")
    texts = list(reasons)
    beaten = {(texts.index(row["chosen"]), texts.index(row["rejected"])) for row in rows}
    first = rows[0]
    query = query_from_row(
        {
            "id": first["id"],
            "question": first.get("prompt"),
            **{name: first.get(name) for name in QUERY_FIELDS},
            "category": first.get("category"),
            "models_output": texts,
            "final_ranking": [1 + sum(loser == index for _, loser in beaten) for index in range(len(texts))],
            "score_reasons": [reasons[text] for text in texts],
        },
        split,
    )
    if set(query.pairs()) != beaten:
        raise RowError("ranking", "chosen", f"the pairs of {query.id!a} are not those of one ranking")
    return query
