"""RLAIF-V's rows: `question`, `chosen`, `rejected`, one `image` with its `image_path`, and where the row comes from."""

from __future__ import annotations

from typing import Any

from components.preferences.formats.pieces import (
    Medium,
    Message,
    Pair,
    Prompt,
    Ranked,
    Row,
    lacks,
    media_of,
    optional_text,
    plain_prompt,
    single_path,
    text_of,
)

ORIGINS = ("ds_name", "origin_dataset")  # the set that the row was published in, and the one that its picture comes from


class RlaifV:
    """Format `rlaif_v`. Its `idx` numbers rows, not queries."""

    name = "rlaif_v"
    title = "RLAIF-V's pairs (question, chosen, rejected, image)"
    fields = frozenset({"question", "chosen", "rejected", "image", "image_path", *ORIGINS})
    own_paths = False

    def against(self, row: Row) -> str | None:
        """A row has a question and two plain answers."""
        if (missing := lacks(row, "question", "chosen", "rejected")) is not None:
            return missing
        return None if all(isinstance(row[field], str) for field in ("question", "chosen", "rejected")) else "chosen or rejected is no text"

    def read(self, row: Row) -> Pair:
        """One pair."""
        prompt = Prompt((Message("user", text_of(row, "question")),), picture_of(row), source=source_of(row))
        return Pair(prompt, text_of(row, "chosen"), text_of(row, "rejected"))

    def write(self, ranked: Ranked) -> list[dict[str, Any]]:
        """A row a pair."""
        question, path = plain_prompt(ranked.prompt, self.name), single_path(ranked.prompt, self.name)
        row = {"ds_name": ranked.prompt.source or "", "image": path, "question": question}
        return [
            {**row, "chosen": pair.chosen, "rejected": pair.rejected, "idx": index, "image_path": path}
            for index, pair in enumerate(ranked.pairs())
        ]


def picture_of(row: Row) -> tuple[Medium, ...]:
    """The picture of a row: `image`, else the file that `image_path` names."""
    return media_of(row, "image", "image") or media_of(row, "image_path", "image")


def source_of(row: Row) -> str | None:
    """The sets that a row comes from, as one text."""
    return "/".join(dict.fromkeys(text for text in (optional_text(row, field) for field in ORIGINS) if text)) or None
