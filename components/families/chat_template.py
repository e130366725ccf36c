"""The chat template of a checkpoint: a conversation as the text that its processor reads.

- It is rendered with marks instead of texts and cut at the marks, once for each *shape* of a conversation (its roles, and the places of texts
  and media in its turns), so that no template is written twice and none reads a text of the data.
- A medium stands where its turn has it. A template takes a turn as a list of parts. One that moves a turn's media to the front
  (LLaVA-OneVision's) gets those behind the first text as the processor's own tokens within that text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.errors import UserError
from components.families.base import Family
from components.families.regular import first_line
from components.families.rendering import render
from components.preferences.record import Kind, Query, Turn
from components.processes.fault_kinds import fault_kind

TEXT = "text"
RESPONSE_MARK, CRITIQUE_MARK = "\x01response\x01", "\x01critique\x01"
OPENED_TAG = re.compile(r"<([A-Za-z_]+)>(?!.*</\1>)", re.DOTALL)
Shape = tuple[tuple[str, tuple[str, ...]], ...]  # of each turn its role, and the order of its texts, images and videos
QUESTION: Shape = (("user", (TEXT,)),)


class UnplacedMediumError(UserError):
    """The template leaves out a medium, or writes it elsewhere."""


class ChatTemplate:
    """Renders conversations for one processor; `base` names the checkpoint in messages.

    Every method raises UserError for a conversation that the template refuses or does not write as it is.
    """

    def __init__(self, base: Path, processor: Any, family: Family) -> None:
        self._base, self._processor, self._family = base, processor, family
        self._prompts: dict[Shape, list[str]] = {}
        self._judged: dict[Shape, tuple[list[str], str, str]] = {}

    def prompt(self, query: Query) -> str:
        """The conversation and the opening of the assistant's turn."""
        return _filled(self._prompt(shape_of(query.turns, query.kinds)), query.turns)

    def judged(self, turns: Sequence[Turn], kinds: Sequence[Kind]) -> str:
        """A judge's conversation up to its last text, which the response follows at once."""
        pieces, _, _ = self._judge(shape_of(turns, kinds))
        return _filled([*pieces, ""], turns)

    @property
    def between(self) -> str:
        """The text between a response and its critique: the end of the user's turn and the opening of the assistant's."""
        return self._judge(QUESTION)[1]

    @property
    def end(self) -> str:
        """The text behind a critique."""
        return self._judge(QUESTION)[2]

    def opens_as_judged(self, turns: Sequence[Turn], kinds: Sequence[Kind]) -> bool:
        """Whether the template opens an answer yet to be written as it opens the critiques that the reward model learns."""
        shape = shape_of(turns, kinds)
        pieces, between, _ = self._judge(shape)
        marked = [f"{piece}{mark}" for piece, mark in zip(pieces, _marks(shape), strict=True)]
        return self._render(shape, RESPONSE_MARK, None) == "".join([*marked, RESPONSE_MARK, between])

    def takes_parts(self, turns: Sequence[Turn], kinds: Sequence[Kind]) -> bool:
        """Whether the template writes each turn's parts in their order, as servers need it, which render the conversation themselves."""
        shape = shape_of(turns, kinds)
        return self._order(self._apply(shape, self._messages(shape, "", within=False), None), shape) == _parts(shape)

    def refuse_unusable(self) -> None:
        """Raises UserError for a template that can't write a question and its answer. Only rows with a medium need that it writes media."""
        for kinds in ((), ("image",), ("video",)):
            shape: Shape = (("user", (*kinds, TEXT)),)
            try:
                self._prompt(shape)
                self._judge(shape)
            except UnplacedMediumError:
                continue

    def _prompt(self, shape: Shape) -> list[str]:
        """The rendered text, cut at the places of the conversation's texts."""
        if shape not in self._prompts:
            pieces = self._cut(self._render(shape, "", None), _marks(shape))
            self._refuse_thought(pieces[-1])
            self._prompts[shape] = pieces
        return self._prompts[shape]

    def _judge(self, shape: Shape) -> tuple[list[str], str, str]:
        """The same up to the last text; the text between response and critique, and that behind."""
        if shape not in self._judged:
            *marks, last = _marks(shape)
            rendered = self._render(shape, RESPONSE_MARK, CRITIQUE_MARK)
            *pieces, between, end = self._cut(rendered, [*marks, last + RESPONSE_MARK, CRITIQUE_MARK])
            self._refuse_thought(between)
            if shape != QUESTION and between != self.between:
                raise UserError(f"the chat template of {self._base} opens the answer to {_words(shape)} otherwise than that to a question")
            self._judged[shape] = pieces, between, end
        return self._judged[shape]

    def _render(self, shape: Shape, response: str, answer: str | None) -> str:
        """The conversation with marks for its texts, every medium at its place, and `response` behind the last text."""
        for within in (False, True):
            rendered = self._apply(shape, self._messages(shape, response, within=within), answer)
            order = self._order(rendered, shape)
            if order == _parts(shape):
                return rendered
        if sorted(part for part in order if part not in self._tokens) == sorted(part for part in _parts(shape) if part not in self._tokens):
            raise UnplacedMediumError(f"the chat template of {self._base} does not write {_words(shape)} with its media in their places")
        return rendered  # `_cut` says how often it writes a text

    def _apply(self, shape: Shape, messages: list[dict[str, Any]], answer: str | None) -> str:
        if answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        try:
            return render(self._processor, messages, add_generation_prompt=answer is None)
        except UserError:
            raise
        except Exception as error:  # a template may refuse a conversation, and fail in any way; a checkpoint may have none
            if fault_kind(error) == "infrastructure":
                raise
            raise UserError(
                f"the chat template of {self._base} can't render {_words(shape)} and its answer ({first_line(error)}): "
                "set model.base in params.yaml to a checkpoint that was trained for conversations"
            ) from error

    def _messages(self, shape: Shape, response: str, *, within: bool) -> list[dict[str, Any]]:
        """The messages for the template; `within` puts media other than a turn's first ones, of one kind, into its text."""
        marks = iter(_marks(shape))
        messages: list[dict[str, Any]] = []
        for role, parts in shape:
            content: list[dict[str, str]] = []
            for number, part in enumerate(parts):
                if part != TEXT and (not within or set(parts[: number + 1]) == {part}):
                    content.append({"type": part})
                    continue
                text = next(marks) if part == TEXT else self._tokens[part]
                if within and content and content[-1]["type"] == "text":
                    content[-1]["text"] += text
                else:
                    content.append({"type": "text", "text": text})
            messages.append({"role": role, "content": content})
        if response:
            messages[-1]["content"][-1]["text"] += response
        return messages

    @property
    def _tokens(self) -> dict[str, str]:
        return {"image": self._processor.image_token, "video": self._processor.video_token}

    def _order(self, rendered: str, shape: Shape) -> list[str]:
        """The texts and media of a rendered conversation, as `_parts` names them."""
        names = {mark: mark for mark in _marks(shape)} | {token: kind for kind, token in self._tokens.items()}
        return [names[match] for match in re.findall("|".join(map(re.escape, names)), rendered)]

    def _refuse_thought(self, opening: str) -> None:
        """Raises UserError for an assistant's opening with a tag that stays open: answers would be trained as the inside of a thought."""
        tags = [tag for tag in OPENED_TAG.findall(opening) if f"<{tag}>" not in self._family.structure(self._processor)]
        if tags:
            raise UserError(
                f"the chat template of {self._base} opens a thought (<{tags[0]}>) before the answer and leaves it open, so answers would be "
                "trained inside the thought: set model.base in params.yaml to a checkpoint that answers at once (an -Instruct one), or close "
                f"the thought in the template with </{tags[0]}>"
            )

    def _cut(self, rendered: str, marks: Sequence[str]) -> list[str]:
        """The pieces between the marks. Raises UserError unless each mark occurs once."""
        pieces = [rendered]
        for mark in marks:
            parts = pieces.pop().split(mark)
            if len(parts) != 2:
                raise UserError(
                    f"the chat template of {self._base} writes a text {len(parts) - 1} times instead of once: "
                    "it must accept messages whose content is a list of parts, and keep their text and order"
                )
            pieces += parts
        return pieces


def judge_turns(query: Query, instruction: str) -> tuple[Turn, ...]:
    """The turns of a judge's root: the instruction stands behind the media that begin the last user's turn, and before its question."""
    *before, last = query.turns
    pieces = list(last.pieces)
    pieces[last.leading] = f"{instruction}\nQuestion: {pieces[last.leading]}"
    pieces[-1] += "\nAnswer:\n"
    return *before, Turn("user", tuple(pieces))


def shape_of(turns: Sequence[Turn], kinds: Sequence[Kind]) -> Shape:
    """The shape of a conversation with media of these kinds. An empty text has no part, but for a turn of nothing else."""
    waiting = iter(kinds)
    shape = []
    for turn in turns:
        first, *others = turn.pieces
        parts: list[str] = [TEXT] if first or not others else []
        for piece in others:
            parts += [next(waiting), *([TEXT] if piece else [])]
        shape.append((turn.role, tuple(parts)))
    return tuple(shape)


def _parts(shape: Shape) -> list[str]:
    """The parts of all turns; a text by its mark."""
    marks = iter(_marks(shape))
    return [next(marks) if part == TEXT else part for _, parts in shape for part in parts]


def _marks(shape: Shape) -> list[str]:
    return [f"\x01{number}\x01" for number in range(sum(parts.count(TEXT) for _, parts in shape))]


def _filled(pieces: Sequence[str], turns: Sequence[Turn]) -> str:
    """A rendered conversation with its texts."""
    texts = [piece for turn in turns for piece in turn.pieces if piece or not turn.media]
    first, *others = pieces
    return first + "".join(text + piece for text, piece in zip(texts, others, strict=True))


def _words(shape: Shape) -> str:
    """A conversation in words, for messages."""
    media = " and ".join(dict.fromkeys(part for _, parts in shape for part in parts if part != TEXT)) or "text"
    return f"a question about {media}" if len(shape) == 1 else f"a conversation of {', '.join(role for role, _ in shape)} about {media}"
