"""The turns and media of a row, and back: `question`, or `conversations` or `messages`, with `image` and `video`.

- The marks `<image>` and `<video>` in a user's turn are the places of the row's images and videos, in order. A row without marks shows them
  before the text of the first user's turn, images first. The rule is the same for every model, whose own placeholders are another matter.
- White space around marks that begin a turn, and behind one that ends it, belongs to the marks. All other text stays as it is.
- A mark elsewhere (in a response, say) is refused, since a model would read it as a picture, or learn to write it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from components.preferences.faults import RowError, shorten, wrong_type
from components.preferences.record import Kind, Medium, Query, Role, Turn
from components.preferences.texts import is_blank

MARK = re.compile(r"<(image|video)>")
KINDS: tuple[Kind, ...] = ("image", "video")
CONVERSATIONS = ("conversations", "messages")
ROLES: dict[str, Role] = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
Placed = tuple[tuple[str, ...], list[Kind]]  # the texts of a turn, and the kinds of the media between them


def read_turns(row: Mapping[str, Any]) -> tuple[tuple[Turn, ...], tuple[Medium, ...]]:
    """The conversation of a row up to the last user's turn, and its media in the order of their places, without digests. Raises RowError."""
    field = next((name for name in CONVERSATIONS if row.get(name)), "question")
    if field != "question" and row.get("question"):
        raise RowError("turns", "question", f"stands beside {field}: give one of them, with all turns up to the last user's")
    read: list[tuple[Role, Placed]] = [("user", placed(_question(row)))] if field == "question" else _messages(row, field)
    if is_blank("".join(read[-1][1][0])):
        raise RowError("empty_prompt", field, "is empty" if field == "question" else "ends with a turn without text")
    return with_media(read, {kind: _paths(row, kind) for kind in KINDS}, field)


def with_media(
    read: Sequence[tuple[Role, Placed]], paths: Mapping[Kind, Sequence[str]], field: str
) -> tuple[tuple[Turn, ...], tuple[Medium, ...]]:
    """Give the places in turns their media, or unmarked media the first places. Raises RowError where their numbers differ."""
    kinds = [kind for _, (_, marked) in read for kind in marked]
    for kind in KINDS:
        marks, media = kinds.count(kind), len(paths[kind])
        if marks and not media:
            raise RowError("media_missing", field, f"holds the mark '<{kind}>', but the row names no {kind}")
        if marks not in {0, media}:
            numbers = f"{marks} mark{'s' * (marks > 1)} '<{kind}>' for {media} {kind}{'s' * (media > 1)}"
            raise RowError("media_marks", field, f"holds {numbers}: write one for each, or none to show them first")
    unmarked: list[Kind] = [kind for kind in KINDS for _ in paths[kind] if kind not in kinds]
    first = next(number for number, (role, _) in enumerate(read) if role == "user")
    turns, order = [], list[Kind]()
    for number, (role, (pieces, marked)) in enumerate(read):
        before = unmarked if number == first else []
        turns.append(Turn(role, (*[""] * len(before), *pieces)))
        order += [*before, *marked]
    waiting = {kind: iter(paths[kind]) for kind in KINDS}
    return tuple(turns), tuple(Medium(next(waiting[kind]), kind) for kind in order)


def placed(text: str) -> Placed:
    """A user's text, cut at its marks."""
    parts = MARK.split(text)
    pieces, kinds = parts[::2], parts[1::2]
    leading = next((number for number, piece in enumerate(pieces) if piece.strip()), len(kinds))
    if leading:
        pieces[: leading + 1] = [*[""] * leading, pieces[leading].lstrip()]
    if kinds and not pieces[-1].strip():
        pieces[-1] = ""
    return tuple(pieces), kinds  # type: ignore[return-value]  # the pattern has no other words


def refuse_marks(field: str, text: str) -> None:
    """Raises RowError for a text with a mark that is not a user's."""
    mark = MARK.search(text)
    if mark is not None:
        raise RowError("special_token", field, f"holds {mark[0]!r}, the mark of a medium's place: only a user's turn may have one")


def turn_fields(query: Query, question: str = "question") -> dict[str, Any]:
    """The field of a row with the query's turns, which `read_turns` reads back with `media_fields`; a single turn stands in `question`."""
    contents: list[Any] = [turn.text for turn in query.turns] if _shown_first(query) else _contents(query)
    if len(query.turns) == 1 and isinstance(contents[0], str):
        return {question: contents[0]}
    return {"messages": [{"role": turn.role, "content": content} for turn, content in zip(query.turns, contents, strict=True)]}


def media_fields(query: Query) -> dict[str, Any]:
    """The fields of a row with the paths of the query's media, a list where there are several."""
    fields: dict[str, Any] = {}
    for kind in KINDS:
        paths = [medium.path for medium in query.media if medium.kind == kind]
        fields[kind] = paths if len(paths) > 1 else "".join(paths)
    return fields


def transcript(query: Query) -> str:
    """The conversation for a reader: all turns by their roles, with numbered media. A question behind its media is the prompt."""
    if _shown_first(query) and len(query.turns) == 1:
        return query.prompt
    texts = _marked(query, [f"[{kind} {number}]" for number, kind in enumerate(query.kinds, 1)])
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"{turn.role.capitalize()}: {text}" for turn, text in zip(query.turns, texts, strict=True))


def _shown_first(query: Query) -> bool:
    """Whether the row needs no marks."""
    first = next(turn for turn in query.turns if turn.role == "user")
    return first.leading == len(query.media) and list(query.kinds) == sorted(query.kinds)


def _marked(query: Query, marks: Sequence[str]) -> list[str]:
    waiting = iter(marks)
    return [turn.pieces[0] + "".join(next(waiting) + piece for piece in turn.pieces[1:]) for turn in query.turns]


def _contents(query: Query) -> list[Any]:
    """Each turn as text with marks; as a list of parts where the text would lose white space."""
    waiting = iter(query.kinds)
    contents: list[Any] = []
    for turn, text in zip(query.turns, _marked(query, [f"<{kind}>" for kind in query.kinds]), strict=True):
        kinds = [next(waiting) for _ in range(turn.media)]
        parts = [{"type": "text", "text": turn.pieces[0]}]
        for kind, piece in zip(kinds, turn.pieces[1:], strict=True):
            parts += [{"type": kind}, {"type": "text", "text": piece}]
        contents.append(text if not kinds or placed(text) == (turn.pieces, kinds) else parts)
    return contents


def _question(row: Mapping[str, Any]) -> str:
    value = row.get("question")
    if value is None:
        raise RowError("missing_field", "question", "is missing")
    if not isinstance(value, str):
        raise wrong_type("question", value, "text")
    return value


def _messages(row: Mapping[str, Any], field: str) -> list[tuple[Role, Placed]]:
    messages = row[field]
    if not isinstance(messages, list):
        raise wrong_type(field, messages, "a list of turns")
    turns = [_message(message, f"{field}[{number}]") for number, message in enumerate(messages)]
    if turns[-1][0] != "user":
        raise RowError(
            "turns", field, f"ends with a turn of the {turns[-1][0]}: the answers to the last user's turn stand in models_output"
        )
    return turns


def _message(message: Any, where: str) -> tuple[Role, Placed]:
    if not isinstance(message, dict):
        raise wrong_type(where, message, "an object with role and content")
    name, content = message.get("from", message.get("role")), message.get("value", message.get("content"))
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise RowError("turns", where, f"has the role {shorten(name)}: write user, assistant or system")
    if isinstance(content, list):
        pieces, kinds = _parts(content, where)
    elif isinstance(content, str):
        pieces, kinds = placed(content)
    else:
        raise wrong_type(where, content, "text")
    if role != "user" and kinds:
        raise RowError("special_token", where, f"holds '<{kinds[0]}>', the mark of a medium's place: only a user's turn may have one")
    if not kinds and is_blank(pieces[0]):
        raise RowError("empty_prompt", where, "is empty")
    return role, (pieces, kinds)


def _parts(content: Sequence[Any], where: str) -> Placed:
    """A content of parts, as chat templates take it; its texts hold no marks."""
    pieces, kinds = [""], list[Kind]()
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in KINDS:
            kinds.append(kind)
            pieces.append("")
        elif kind == "text" and isinstance(part.get("text"), str):
            refuse_marks(where, part["text"])
            pieces[-1] += part["text"]
        else:
            raise RowError("turns", where, f"holds the part {shorten(part)}: write a text, an image or a video")
    return tuple(pieces), kinds


def _paths(row: Mapping[str, Any], field: str) -> list[str]:
    value = row.get(field)
    values = value if isinstance(value, list) else [value]
    for item in values:
        if item is not None and not isinstance(item, str):
            raise wrong_type(field, item, "text")
    paths = [item for item in values if item]
    if paths and len(paths) < len(values):
        raise RowError("media_path", field, f"holds an empty path among {len(values)}")
    return paths
