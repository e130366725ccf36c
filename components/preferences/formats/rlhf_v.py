"""RLHF-V's rows: `text` is a JSON text with `question`, `chosen` and `rejected`; the picture stands beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from components.preferences.faults import RowError
from components.preferences.formats.pieces import Message, Pair, Prompt, Ranked, Row, lacks, plain_prompt, single_path, text_of
from components.preferences.formats.rlaif_v import ORIGINS, picture_of, source_of


class RlhfV:
    """Format `rlhf_v`."""

    name = "rlhf_v"
    title = "RLHF-V's pairs (text with question, chosen and rejected as JSON, image)"
    fields = frozenset({"text", "image", "image_path", *ORIGINS})
    own_paths = False

    def against(self, row: Row) -> str | None:
        """`text` is an object with both answers, or its JSON text."""
        if (missing := lacks(row, "text")) is not None:
            return missing
        try:
            return lacks(_inner(row), "question", "chosen", "rejected")
        except RowError as fault:
            return str(fault)

    def read(self, row: Row) -> Pair:
        """One pair."""
        inner = _inner(row)
        prompt = Prompt((Message("user", text_of(inner, "question")),), picture_of(row), source=source_of(row))
        return Pair(prompt, text_of(inner, "chosen"), text_of(inner, "rejected"))

    def write(self, ranked: Ranked) -> list[dict[str, Any]]:
        """A row a pair."""
        question, path = plain_prompt(ranked.prompt, self.name), single_path(ranked.prompt, self.name)
        return [
            {
                "ds_name": ranked.prompt.source or "",
                "image": path,
                "text": json.dumps({"question": question, "chosen": pair.chosen, "rejected": pair.rejected}, ensure_ascii=False),
                "idx": index,
                "image_path": path,
            }
            for index, pair in enumerate(ranked.pairs())
        ]


def _inner(row: Row) -> Row:
    value = row.get("text")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RowError("json", "text", "is no JSON text") from error
    if not isinstance(value, Mapping):
        raise RowError("type", "text", "is no object")
    return value
