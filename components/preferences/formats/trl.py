"""TRL's preference format: `prompt`, `chosen` and `rejected` as texts or as messages, with `images` (or `image`).

Without `prompt` both answers begin with it (TRL calls that an implicit prompt): of messages it is what both share before the last one, of texts
the longest beginning that both share, up to a space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from components.preferences.faults import RowError
from components.preferences.formats.pieces import (
    Medium,
    Message,
    Pair,
    Prompt,
    Ranked,
    Row,
    check_prompt,
    lacks,
    media_of,
    parts_of,
    plural_fields,
    text_of,
    turns_of,
    with_marks,
)


class Trl:
    """Format `trl`."""

    name = "trl"
    title = "TRL's preferences (prompt, chosen, rejected as texts or messages, images)"
    fields = frozenset({"prompt", "chosen", "rejected", "images", "image", "videos"})
    own_paths = False

    def against(self, row: Row) -> str | None:
        """Both answers are texts or both are messages; a row with another format's prompt has no implicit one."""
        if (missing := lacks(row, "chosen", "rejected")) is not None:
            return missing
        kinds = {type(row[field]) for field in ("prompt", "chosen", "rejected") if row.get(field) is not None}
        if len(kinds) > 1 or not kinds <= {str, list}:
            return "prompt, chosen and rejected are neither all texts nor all messages"
        others = [field for field in ("question", "conversations", "messages", "instruction") if row.get(field) is not None]
        if row.get("prompt") is None and others:
            return f"prompt missing, and {others[0]} is no field of it"
        return "chosen_reason is no field of it" if row.get("chosen_reason") is not None else None

    def read(self, row: Row) -> Pair:
        """One pair, of texts or of messages."""
        media = media_of(row, "images", "image") or media_of(row, "image", "image")
        media = (*media, *media_of(row, "videos", "video"))
        if isinstance(row.get("chosen"), str):
            return self._of_texts(row, media)
        chosen, inside = turns_of(row.get("chosen"), "chosen")
        rejected, _ = turns_of(row.get("rejected"), "rejected")
        if row.get("prompt") is not None:
            turns, inside = turns_of(row["prompt"], "prompt")
        else:
            turns = chosen[: _shared(chosen[:-1], rejected[:-1])]
            chosen, rejected = chosen[len(turns) :], rejected[len(turns) :]
        check_prompt(turns, "prompt")
        for field, answer in (("chosen", chosen), ("rejected", rejected)):
            if len(answer) != 1 or answer[0].role != "assistant":
                raise RowError("turns", field, f"has {len(answer)} turns, not one of the assistant")
        return Pair(Prompt(turns, media or inside), chosen[0].text, rejected[0].text)

    def _of_texts(self, row: Row, media: tuple[Medium, ...]) -> Pair:
        chosen, rejected = text_of(row, "chosen"), text_of(row, "rejected")
        if row.get("prompt") is not None:
            return Pair(Prompt((Message("user", text_of(row, "prompt")),), media), chosen, rejected)
        shared = chosen[: _shared(chosen, rejected)]
        prompt = shared[: shared.rfind(" ")] if " " in shared else ""
        if not prompt.strip():
            raise RowError("missing_field", "prompt", "is missing, and chosen and rejected don't begin with the same words")
        return Pair(Prompt((Message("user", prompt),), media), chosen[len(prompt) :], rejected[len(prompt) :])

    def write(self, ranked: Ranked) -> list[dict[str, Any]]:
        """A row a pair, as messages whose contents are parts."""
        media = plural_fields(ranked.prompt.media)
        prompt = [{"role": message.role, "content": parts_of(message.text)} for message in with_marks(ranked.prompt)]
        return [{**media, "prompt": prompt, "chosen": _answer(pair.chosen), "rejected": _answer(pair.rejected)} for pair in ranked.pairs()]


def _shared(first: Sequence[object], second: Sequence[object]) -> int:
    """How many items both begin with."""
    pairs = zip(first, second, strict=False)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _answer(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
