"""The MM-RLHF release's `dpo_pairs.jsonl`: a row a pair of different ranks, with the id of its query and the critiques of both answers."""

from __future__ import annotations

from typing import Any

from components.preferences.formats.pieces import (
    Message,
    Pair,
    Prompt,
    Ranked,
    Row,
    identity,
    lacks,
    media_of,
    optional_text,
    plain_prompt,
    text_of,
)

REASONS = ("chosen_reason", "rejected_reason")


class MmRlhfPairs:
    """Format `mm_rlhf_pairs`. All pairs of an id, prompt and medium are one query."""

    name = "mm_rlhf_pairs"
    title = "the MM-RLHF release's pairs (id, prompt, chosen, rejected, chosen_reason, rejected_reason)"
    fields = frozenset({"id", "prompt", "chosen", "rejected", "image", "video", "category", "source", *REASONS})
    own_paths = True

    def against(self, row: Row) -> str | None:
        """A row has an id and three plain texts, and names media one by one."""
        if (missing := lacks(row, "id", "prompt", "chosen", "rejected")) is not None:
            return missing
        if not all(isinstance(row[field], str) for field in ("prompt", "chosen", "rejected")):
            return "prompt, chosen or rejected is no text"
        return "images is no field of it" if row.get("images") else None

    def read(self, row: Row) -> Pair:
        """One pair."""
        media = (*media_of(row, "image", "image"), *media_of(row, "video", "video"))
        prompt = Prompt(
            (Message("user", text_of(row, "prompt")),),
            media,
            identity(row),
            optional_text(row, "source") or None,
            optional_text(row, "category") or None,
        )
        return Pair(prompt, text_of(row, "chosen"), text_of(row, "rejected"), *(optional_text(row, field) for field in REASONS))

    def write(self, ranked: Ranked) -> list[dict[str, Any]]:
        """A row a pair, with the medium under its kind."""
        prompt = plain_prompt(ranked.prompt, self.name)
        media: dict[str, str | list[str]] = {}
        for kind in ("image", "video"):
            names = [medium.path or "" for medium in ranked.prompt.media if medium.kind == kind]
            media |= {kind: names if len(names) > 1 else names[0]} if names else {}
        return [
            {
                "id": ranked.prompt.id,
                **media,
                "prompt": prompt,
                "chosen": pair.chosen,
                "rejected": pair.rejected,
                "chosen_reason": pair.chosen_reason,
                "rejected_reason": pair.rejected_reason,
                **({"category": ranked.prompt.category} if ranked.prompt.category else {}),
            }
            for pair in ranked.pairs()
        ]
