"""What all formats are read into and written from: a prompt with its media, and either one pair or one ranking of answers.

- A turn's text holds a mark, `<image>` or `<video>`, where a medium stands. Without any mark, all media stand before the first user turn.
- A medium is a path relative to the source, or bytes that came with the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from components.preferences.faults import RowError, shorten, wrong_type

Role = Literal["system", "user", "assistant"]
Kind = Literal["image", "video"]
Row = Mapping[str, Any]
MARKS: dict[Kind, str] = {"image": "<image>", "video": "<video>"}
ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
}
_TYPES: dict[str, Kind] = {"image": "image", "image_url": "image", "video": "video", "video_url": "video"}


@dataclass(frozen=True)
class Medium:
    """A picture or a folder of frames: its path as the source names it, or its bytes."""

    kind: Kind
    path: str | None = None
    data: bytes | None = None


@dataclass(frozen=True)
class Message:
    """Who speaks, and the text with its marks."""

    role: Role
    text: str


@dataclass(frozen=True)
class Prompt:
    """All turns up to the last user's, the media in the order of their marks, and what the source knows about the query."""

    turns: tuple[Message, ...]
    media: tuple[Medium, ...] = ()
    id: str | None = None
    source: str | None = None
    category: str | None = None


@dataclass(frozen=True)
class Pair:
    """The better and the worse of two answers, with people's or a model's reasons; "" where there is none."""

    prompt: Prompt
    chosen: str
    rejected: str
    chosen_reason: str = ""
    rejected_reason: str = ""


@dataclass(frozen=True)
class Answer:
    """One ranked answer; scores are 1..5 or None, `reason` is the critique that came with it."""

    text: str
    rank: int
    faithfulness: float | None = None
    helpfulness: float | None = None
    ethics: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Ranked:
    """All answers to a prompt. `row` is the row itself, where it already is one of data.jsonl."""

    prompt: Prompt
    answers: tuple[Answer, ...]
    row: Row | None = None
    unrated: int = 0  # answers of the source without any rating, which no ranking holds

    def pairs(self) -> list[Pair]:
        """The pairs of different rank, in the order of the answers."""
        return [
            Pair(self.prompt, better.text, worse.text, better.reason, worse.reason)
            for better in self.answers
            for worse in self.answers
            if better.rank < worse.rank
        ]


class Format(Protocol):
    """One format. `read` and `write` are inverse up to the order of pairs and what `Ranked` does not hold."""

    name: str
    title: str  # for messages: whose format, and its telling fields
    fields: frozenset[str]  # the fields that `read` reads
    own_paths: bool  # whether rows name media as data.jsonl does, so that the names stay

    def against(self, row: Row) -> str | None:
        """Why the row is not of this format; None for a row that is."""

    def read(self, row: Row) -> Pair | Ranked:
        """The pair or the ranking of a row. Raises RowError."""

    def write(self, ranked: Ranked) -> list[dict[str, Any]]:
        """The rows of a query. Raises RowError for what the format can't hold."""


def lacks(row: Row, *fields: str) -> str | None:
    """The reason against a row without one of these fields."""
    missing = [field for field in fields if row.get(field) is None]
    return f"{', '.join(missing)} missing" if missing else None


def text_of(row: Row, field: str) -> str:
    """The text of a field. Raises RowError where it is missing or no text."""
    value = row.get(field)
    if value is None:
        raise RowError("missing_field", field, "is missing")
    if not isinstance(value, str):
        raise wrong_type(field, value, "text")
    return value


def optional_text(row: Row, field: str) -> str:
    """The text of a field, "" where it is missing. Raises RowError for another type."""
    return text_of(row, field) if row.get(field) is not None else ""


def identity(row: Row, field: str = "id") -> str | None:
    """The id of a row as text, None where there is none."""
    value = row.get(field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise wrong_type(field, value, "text")
    return value or None


def media_of(row: Row, field: str, kind: Kind) -> tuple[Medium, ...]:
    """The media of a field: one or a list of paths, bytes, or objects with `path` and `bytes` as Hugging Face's `datasets` writes them."""
    value = row.get(field)
    if value is None or value == "" or value == []:
        return ()
    return tuple(_medium(item, field, kind) for item in (value if isinstance(value, list) else [value]))


def _medium(value: Any, field: str, kind: Kind) -> Medium:
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path") or value.get("url")
        if isinstance(data, bytes) and data:
            return Medium(kind, path if isinstance(path, str) else None, data)
        value = path
    if isinstance(value, bytes):
        return Medium(kind, data=value)
    if not isinstance(value, str) or not value:
        raise wrong_type(field, value, "a path, bytes, or an object with path or bytes")
    return Medium(kind, value)


def turns_of(messages: Any, field: str, keys: tuple[str, str] = ("role", "content")) -> tuple[tuple[Message, ...], tuple[Medium, ...]]:
    """Turns of a list of messages, and the media that stand inside their contents. Raises RowError for roles that no query has."""
    if not isinstance(messages, list) or not messages:
        raise wrong_type(field, messages, "a list of messages")
    turns: list[Message] = []
    media: list[Medium] = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise wrong_type(f"{field}[{index}]", message, "an object")
        role = ROLES.get(str(message.get(keys[0])).lower())
        if role is None:
            raise RowError("role", f"{field}[{index}].{keys[0]}", f"{shorten(message.get(keys[0]))} is none of {', '.join(ROLES)}")
        text, inside = content_of(message.get(keys[1]), f"{field}[{index}].{keys[1]}")
        turns.append(Message(role, text))
        media.extend(inside)
    return tuple(turns), tuple(media)


def content_of(content: Any, field: str) -> tuple[str, tuple[Medium, ...]]:
    """A message's text with marks, and the media that its parts hold themselves."""
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, list):
        raise wrong_type(field, content, "text or a list of parts")
    text = ""
    media: list[Medium] = []
    for index, part in enumerate(content):
        if not isinstance(part, Mapping):
            raise wrong_type(f"{field}[{index}]", part, "an object")
        kind = _TYPES.get(str(part.get("type")))
        if kind is not None:
            text += MARKS[kind]
            value = next((part[key] for key in (part["type"], kind, "path", "url") if part.get(key)), None)
            if value is not None:
                media.append(_medium(value, f"{field}[{index}]", kind))
        elif part.get("type") == "text" and isinstance(part.get("text"), str):
            text += part["text"]
        else:
            raise RowError("type", f"{field}[{index}]", f"{shorten(part.get('type'))} is neither text, image nor video")
    return text, tuple(media)


def parts_of(text: str) -> list[dict[str, str]]:
    """The parts of a message's content: a text's marks become parts of their own. The inverse of `content_of`."""
    parts: list[dict[str, str]] = []
    while text:
        at, kind = min(((text.find(mark), kind) for kind, mark in MARKS.items() if mark in text), default=(len(text), None))
        if at:
            parts.append({"type": "text", "text": text[:at]})
        if kind is not None:
            parts.append({"type": kind})
            at += len(MARKS[kind])
        text = text[at:]
    return parts


def with_marks(prompt: Prompt) -> tuple[Message, ...]:
    """The turns with a mark a medium: marks that are missing as a whole stand before the first user turn."""
    if not prompt.media or any(mark in message.text for message in prompt.turns for mark in MARKS.values()):
        return prompt.turns
    first = next(index for index, message in enumerate(prompt.turns) if message.role == "user")
    marks = "".join(MARKS[medium.kind] for medium in prompt.media)
    return (*prompt.turns[:first], Message("user", f"{marks}{prompt.turns[first].text}"), *prompt.turns[first + 1 :])


def plain_prompt(prompt: Prompt, name: str) -> str:
    """The text of a prompt that is one user turn. Raises RowError for another: format `name` has no place for it."""
    if len(prompt.turns) != 1:
        raise RowError("turns", "messages", f"has {len(prompt.turns)} turns, and {name} has one")
    return prompt.turns[0].text


def single_path(prompt: Prompt, name: str) -> str:
    """The path of the only image, "" for none. Raises RowError for more, and for frames."""
    if len(prompt.media) > 1 or any(medium.kind == "video" for medium in prompt.media):
        raise RowError("media", "image", f"is more than one picture, and {name} has one a row")
    return (prompt.media[0].path or "") if prompt.media else ""


def paths(media: Sequence[Medium], kind: Kind) -> list[str]:
    """The paths of the media of a kind."""
    return [medium.path or "" for medium in media if medium.kind == kind]


def plural_fields(media: Sequence[Medium]) -> dict[str, list[str]]:
    """`images` and `videos` with the paths of the media, as most trainers name them; a kind without any has no field."""
    fields = {"images": paths(media, "image"), "videos": paths(media, "video")}
    return {field: names for field, names in fields.items() if names}


def check_prompt(turns: Sequence[Message], field: str) -> None:
    """Raises RowError unless the turns end with a user's."""
    if not turns or turns[-1].role != "user":
        raise RowError("turns", field, "does not end with the user's turn")


def history_of(row: Row) -> tuple[Message, ...]:
    """The turns of `history`, a list of questions with their answers."""
    turns: list[Message] = []
    for index, item in enumerate(row.get("history") or []):
        if not isinstance(item, list) or len(item) != 2 or not all(isinstance(text, str) for text in item):
            raise RowError("type", f"history[{index}]", "is not a question and its answer")
        turns += [Message("user", item[0]), Message("assistant", item[1])]
    return tuple(turns)
