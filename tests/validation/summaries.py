"""Summaries of rows that tests write in a line."""

from __future__ import annotations

from typing import Any

from components.files import digest_bytes
from components.validation.summary import Summary


def summary(number: int, **changes: Any) -> Summary:
    """Row `number`, about a picture of its own, with two answers and no scores."""
    values: dict[str, Any] = {
        "line": number + 1,
        "id": f"row-{number}",
        "category": "short",
        "content": digest_bytes("content", str(changes.get("wording", number)), *changes.get("pictures", [f"picture {number}"])),
        "wording": f"question {number}",
        "pictures": [f"picture {number}"],
        "group": None,
        "answers": f"answers {number}",
        "ranks": [1, 2],
        "responses": 2,
        "pairs": 1,
        "equal_texts": 0,
        "scored": 0,
        "contradicting": 0,
        "list_doubtful": False,
        "list_ties": False,
        "contradicting_as_order": 0,
        "personal": [],
        "tokens": 10,
    }
    values |= changes
    return Summary(**({"fingerprints": [bytes(160)] * len(values["pictures"])} | values))
