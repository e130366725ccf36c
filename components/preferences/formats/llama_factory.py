"""LLaMA-Factory's ranking formats: sharegpt (`conversations` with `chosen` and `rejected` messages), its form with roles, and alpaca."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.preferences.faults import wrong_type
from components.preferences.formats.pieces import (
    Message,
    Pair,
    Prompt,
    Ranked,
    Row,
    check_prompt,
    history_of,
    lacks,
    media_of,
    optional_text,
    plural_fields,
    text_of,
    turns_of,
    with_marks,
)

_KEYS = {"conversations": ("from", "value"), "messages": ("role", "content")}


class LlamaFactory:
    """Format `llama_factory`."""

    name = "llama_factory"
    title = "LLaMA-Factory's rankings (conversations or instruction, chosen, rejected, images)"
    fields = frozenset({"conversations", "messages", "instruction", "input", "history", "system", "chosen", "rejected", "images", "videos"})
    own_paths = False

    def against(self, row: Row) -> str | None:
        """A row has one of the three prompts, and a better and a worse answer."""
        if (missing := lacks(row, "chosen", "rejected")) is not None:
            return missing
        if all(row.get(field) is None for field in (*_KEYS, "instruction")):
            return "conversations, messages and instruction missing"
        if isinstance(row["chosen"], list):
            return "chosen is a list, not one message"
        return None

    def read(self, row: Row) -> Pair:
        """One pair."""
        media = (*media_of(row, "images", "image"), *media_of(row, "videos", "video"))
        turns: tuple[Message, ...] = ()
        if (system := optional_text(row, "system")) != "":
            turns = (Message("system", system),)
        for field, keys in _KEYS.items():
            if row.get(field) is not None:
                conversation, _ = turns_of(row[field], field, keys)
                check_prompt(conversation, field)
                return Pair(Prompt((*turns, *conversation), media), _answer(row, "chosen"), _answer(row, "rejected"))
        turns += history_of(row)
        question = "\n".join(text for text in (text_of(row, "instruction"), optional_text(row, "input")) if text)
        return Pair(Prompt((*turns, Message("user", question)), media), _answer(row, "chosen"), _answer(row, "rejected"))

    def write(self, ranked: Ranked) -> list[dict[str, Any]]:
        """A row a pair, in the sharegpt form; a mark for each medium, which LLaMA-Factory requires."""
        tags = {"user": "human", "assistant": "gpt", "system": "system"}
        turns = with_marks(ranked.prompt)
        row: dict[str, Any] = {
            "conversations": [{"from": tags[message.role], "value": message.text} for message in turns if message.role != "system"]
        }
        if system := [message.text for message in turns if message.role == "system"]:
            row["system"] = "\n".join(system)
        row |= plural_fields(ranked.prompt.media)
        return [
            {**row, "chosen": {"from": "gpt", "value": pair.chosen}, "rejected": {"from": "gpt", "value": pair.rejected}}
            for pair in ranked.pairs()
        ]


def _answer(row: Row, field: str) -> str:
    value = row.get(field)
    if isinstance(value, Mapping):
        value = value.get("value", value.get("content"))
    if not isinstance(value, str):
        raise wrong_type(field, value, "a message or text")
    return value
