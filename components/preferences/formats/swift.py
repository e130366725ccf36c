"""ms-swift's RLHF format: `messages` that end with the better answer, and `rejected_response` or `rejected_messages`.

Its older form has `query` (or `question`, as the MM-RLHF release's converter writes), `response` and `history`.
"""

from __future__ import annotations

from typing import Any

from components.preferences.faults import RowError, wrong_type
from components.preferences.formats.pieces import (
    Kind,
    Message,
    Pair,
    Prompt,
    Ranked,
    Row,
    check_prompt,
    history_of,
    media_of,
    optional_text,
    plural_fields,
    text_of,
    turns_of,
    with_marks,
)

_REJECTED_MEDIA: dict[str, Kind] = {"rejected_images": "image", "rejected_videos": "video"}


class Swift:
    """Format `swift`."""

    name = "swift"
    title = "ms-swift's preferences (messages, rejected_response or rejected_messages, images)"
    fields = frozenset(
        {"messages", "rejected_response", "rejected_messages", "images", "videos", "image", "video"}
        | {"rejected_images", "rejected_videos", "query", "question", "response", "history", "system"}
    )
    own_paths = False

    def against(self, row: Row) -> str | None:
        """A row names its worse answer as only swift does."""
        if row.get("rejected_response") is None and row.get("rejected_messages") is None:
            return "rejected_response missing"
        if row.get("messages") is None and (row.get("response") is None or all(row.get(name) is None for name in ("query", "question"))):
            return "messages missing"
        return None

    def read(self, row: Row) -> Pair:
        """One pair. Raises RowError where both answers don't belong to the same turns and media."""
        media = media_of(row, "images", "image") or media_of(row, "image", "image")
        media = (*media, *(media_of(row, "videos", "video") or media_of(row, "video", "video")))
        if row.get("messages") is not None:
            turns, inside = turns_of(row["messages"], "messages")
            if turns[-1].role != "assistant":
                raise RowError("turns", "messages", "does not end with the better answer of the assistant")
            prompt, chosen = Prompt(turns[:-1], media or inside), turns[-1].text
        else:
            system = optional_text(row, "system")
            question = Message("user", text_of(row, "query" if row.get("query") is not None else "question"))
            turns = (*((Message("system", system),) if system else ()), *history_of(row), question)
            prompt, chosen = Prompt(turns, media), text_of(row, "response")
        check_prompt(prompt.turns, "messages")
        return Pair(prompt, chosen, _rejected(row, prompt))

    def write(self, ranked: Ranked) -> list[dict[str, Any]]:
        """A row a pair, in the form with messages; a mark for each medium."""
        prompt = [{"role": message.role, "content": message.text} for message in with_marks(ranked.prompt)]
        media = plural_fields(ranked.prompt.media)
        return [
            {"messages": [*prompt, {"role": "assistant", "content": pair.chosen}], "rejected_response": pair.rejected, **media}
            for pair in ranked.pairs()
        ]


def _rejected(row: Row, prompt: Prompt) -> str:
    if row.get("rejected_messages") is None:
        value = row.get("rejected_response")
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, str):
            raise wrong_type("rejected_response", value, "text")
        return value
    turns, _ = turns_of(row["rejected_messages"], "rejected_messages")
    if turns[-1].role != "assistant" or turns[:-1] not in {prompt.turns, ()}:
        raise RowError("turns", "rejected_messages", "are no answer to the same turns as messages")
    for field, kind in _REJECTED_MEDIA.items():
        media = media_of(row, field, kind)
        if media and media != tuple(medium for medium in prompt.media if medium.kind == kind):
            raise RowError("media", field, "are other media than those of the better answer")
    return turns[-1].text
