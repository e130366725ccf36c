"""Turns a query into tokens and pixels, for the policy and for the judge.

- A prompt consists of a *root* (media and all text up to the response) and *branches* (a response, or a response with its critique). Separate
  tokenization gives a branch the same tokens after every root, and generation the same tokens as training.
- The family's own processor reads the root, so that a model trained here behaves the same when a user opens it with AutoProcessor.
- `Preprocessor` renders the chat template with marks instead of texts and cuts it at the marks, so that no template is written twice.
- It never cuts images. Validation refuses a query that does not fit.
- An *outline* is a root without pixels. Lengths come from outlines, and a medium whose features are cached is never opened.
- Roots with pixels stay in memory up to `features.pixels_max_gb`; of the others, which cost no more than a tokenization, the last few, without
  features.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoProcessor

from components.errors import UserError
from components.families import lora
from components.families.adapters import Family, FeatureSource, Root, family_of
from components.families.outlines import Outlines, Size
from components.files import digest_bytes
from components.preferences.frames import frame_indices, frame_names
from components.preferences.media import READER, locate, picture_size, read_frames, read_picture
from components.preferences.record import Query

if TYPE_CHECKING:
    from components.config.features import FeatureSettings
    from components.config.model import ModelSettings

QUESTION_MARK, RESPONSE_MARK, CRITIQUE_MARK = "\x01question\x01", "\x01response\x01", "\x01critique\x01"
CACHED_OUTLINES = 64  # roots without pixels that stay in memory, for callers who ask again for each response
OPENED_TAG = re.compile(r"<([A-Za-z_]+)>(?!.*</\1>)", re.DOTALL)
BLANK_GRAY = 128  # the value of every pixel of a blanked image: the middle of the range, which the processor maps to about 0


class Preprocessor:
    """Builds roots and branches for one base model. Media paths are relative to `media_root`."""

    def __init__(self, base: Path, media_root: Path, model: ModelSettings, features: FeatureSettings) -> None:
        self.processor: Any = AutoProcessor.from_pretrained(base, local_files_only=True)
        self.tokenizer: Any = self.processor.tokenizer
        whole = lora.base_of(base) if lora.is_adapters(base) else base
        self.config: Any = AutoConfig.from_pretrained(whole, local_files_only=True)
        self.family: Family = family_of(self.config)
        self.base = base
        self._refuse_tokens_without_row()
        self.media_root = media_root
        self.features: FeatureSource | None = None  # components.features.cache sets it after the fill
        self.max_frames = model.max_frames
        self.background = model.background
        self._roots: OrderedDict[tuple[str, ...], Root] = OrderedDict()
        self._root_bytes = 0
        self._recent: OrderedDict[tuple[str, ...], Root] = OrderedDict()  # outlines
        self._policy_templates: dict[str | None, tuple[str, str]] = {}
        self._judge_templates: dict[str | None, tuple[str, str, str]] = {}
        self._outlines = Outlines(self.family, self.processor, self.config)
        self._limit_bytes = int(features.pixels_max_gb * 1e9)

    def policy_root(self, query: Query) -> Root:
        """The root of responses: media, question and the opening of the assistant's turn."""
        return self._root(query, self._policy_text(query), blank=False)

    def judge_root(self, query: Query, instruction: str, blank: bool = False) -> Root:
        """The root of a response and its critique (paper section 3): media, instruction, question, "Answer:".

        `blank` replaces the media's pixels by gray ones, to measure how much the judge depends on them.
        """
        return self._root(query, self._judge_text(query, instruction), blank=blank)

    def policy_length(self, query: Query) -> int:
        """Tokens of the policy's root."""
        return self._outlines.length(self._policy_text(query), query.media_kind, self.media_size(query))

    def judge_length(self, query: Query, instruction: str) -> int:
        """Tokens of the judge's root."""
        return self._outlines.length(self._judge_text(query, instruction), query.media_kind, self.media_size(query))

    def judge_outline(self, query: Query, instruction: str, blank: bool = False) -> Root:
        """The judge's root without pixels."""
        return self._outline(query, self._judge_text(query, instruction), blank=blank)

    def response_ids(self, text: str) -> list[int]:
        """A policy branch: the response's tokens and the end of the turn."""
        return [*self._tokens(text), self.end_id]

    def judge_ids(self, response: str) -> list[int]:
        """The tokens between a judge's root and the critique: the response, and the opening of the assistant's turn."""
        _, between, _ = self._judge_template(None)
        return [*self._tokens(response), *self.tokenizer(between, add_special_tokens=False)["input_ids"]]

    def critique_ids(self, critique: str) -> list[int]:
        """The critique's tokens and the end of the turn, where the score head reads."""
        return [*self._tokens(critique), self.end_id]

    @cached_property
    def end_id(self) -> int:
        """The token that ends a turn: the first special one after the assistant's text in the chat template."""
        _, _, end = self._judge_template(None)
        after = self.tokenizer(end, add_special_tokens=False)["input_ids"]
        special = [token for token in after if token in self.tokenizer.added_tokens_decoder]
        if not after:
            raise UserError(f"the chat template of {self.base} does not end the assistant's turn: add its end token after the text")
        return int((special or after)[0])

    def media_tokens(self) -> list[str]:
        """Special tokens that data must not contain, since a model reads them as structure."""
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        return sorted({*self.tokenizer.all_special_tokens, *special, *self.family.structure(self.processor)})

    def refuse_unusable_template(self) -> None:
        """Raises UserError for a chat template that can't write what training needs."""
        for kind in (None, "image", "video"):
            self._policy_template(kind)
            self._judge_template(kind)
        _ = self.end_id

    def _tokens(self, text: str) -> list[int]:
        # Text from data must never become a special token.
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    @staticmethod
    def judge_text(instruction: str, prompt: str) -> str:
        """The text of a judge's root, which the response follows at once."""
        return f"{instruction}\nQuestion: {prompt}\nAnswer:\n"

    def _policy_text(self, query: Query) -> str:
        head, tail = self._policy_template(query.media_kind)
        return head + query.prompt + tail

    def _judge_text(self, query: Query, instruction: str) -> str:
        head, _, _ = self._judge_template(query.media_kind)
        return head + self.judge_text(instruction, query.prompt)

    def opens_as_trained(self, kind: str | None) -> bool:
        """Whether the chat template opens an answer yet to be written as it opens the critiques that the reward model learns."""
        head, between, _ = self._judge_template(kind)
        return self._render(kind, QUESTION_MARK + RESPONSE_MARK, None) == head + QUESTION_MARK + RESPONSE_MARK + between

    def _render(self, kind: str | None, text: str, answer: str | None) -> str:
        media = [{"type": kind}] if kind else []
        messages = [{"role": "user", "content": [*media, {"type": "text", "text": text}]}]
        if answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        try:
            return str(self.processor.apply_chat_template(messages, add_generation_prompt=answer is None, tokenize=False))
        except (ValueError, TemplateError) as error:  # a template may refuse a conversation; a checkpoint may have none
            raise UserError(
                f"the chat template of {self.base} can't render a question about {kind or 'text'} and its answer ({error}): "
                "set model.base in params.yaml to a checkpoint that was trained for conversations"
            ) from error

    def _policy_template(self, kind: str | None) -> tuple[str, str]:
        if kind not in self._policy_templates:
            head, tail = self._cut(self._render(kind, QUESTION_MARK, None), QUESTION_MARK)
            self._refuse_thought(tail)
            self._policy_templates[kind] = head, tail
        return self._policy_templates[kind]

    def _judge_template(self, kind: str | None) -> tuple[str, str, str]:
        if kind not in self._judge_templates:
            rendered = self._render(kind, QUESTION_MARK + RESPONSE_MARK, CRITIQUE_MARK)
            head, between, end = self._cut(rendered, QUESTION_MARK + RESPONSE_MARK, CRITIQUE_MARK)
            self._refuse_thought(between)
            self._judge_templates[kind] = head, between, end
        return self._judge_templates[kind]

    def _refuse_thought(self, opening: str) -> None:
        """Raises UserError for an assistant's opening with a tag that stays open: answers would be trained as the inside of a thought."""
        tags = [tag for tag in OPENED_TAG.findall(opening) if f"<{tag}>" not in self.family.structure(self.processor)]
        if tags:
            raise UserError(
                f"the chat template of {self.base} opens a thought (<{tags[0]}>) before the answer and leaves it open, so answers would be "
                "trained inside the thought: set model.base in params.yaml to a checkpoint that answers at once (an -Instruct one), or close "
                f"the thought in the template with </{tags[0]}>"
            )

    def _refuse_tokens_without_row(self) -> None:
        """Raises UserError for a tokenizer with a token that the embedding has no row for, unless the processor never lets it through."""
        rows = self.config.text_config.vocab_size
        added = {number: token.content for number, token in self.tokenizer.added_tokens_decoder.items()}
        replaced = self.family.replaced_tokens(self.processor)
        without = [f"{token!r} ({number})" for number, token in sorted(added.items()) if number >= rows and token not in replaced]
        if self.tokenizer.vocab_size > rows:
            without = [f"{self.tokenizer.vocab_size - rows} ordinary tokens", *without]
        if without:
            raise UserError(
                f"the tokenizer of {self.base} has more tokens than the embedding has rows ({rows}): {', '.join(without[:3])} "
                f"{'has' if len(without) == 1 else 'have'} none. Resize the embedding (resize_token_embeddings) and save the model again, or take "
                "the tokenizer that belongs to the model"
            )

    def _cut(self, rendered: str, *marks: str) -> list[str]:
        """The pieces between the marks. Raises UserError unless each mark occurs once."""
        pieces = [rendered]
        for mark in marks:
            parts = pieces.pop().split(mark)
            if len(parts) != 2:
                raise UserError(
                    f"the chat template of {self.base} writes a text {len(parts) - 1} times instead of once: "
                    "it must accept messages whose content is a list of parts, and keep their text and order"
                )
            pieces += parts
        return pieces

    def _root(self, query: Query, text: str, *, blank: bool) -> Root:
        key = (text, query.media or "", query.media_digest or "", str(blank))
        if key in self._roots:
            self._roots.move_to_end(key)
            return self._roots[key]
        if query.media is None or self.features is not None:
            root = self._recent_outline(key, query, text, blank=blank)
            if self.features is not None:
                root = self.features.attach(root)
            if all(medium.features is not None for medium in root.media):
                return root
        images = [_channels_first([self.load_image(query, blank)])[0]] if query.media_kind == "image" else []
        videos = [_channels_first(self.load_frames(query, blank))] if query.media_kind == "video" else []
        medium = self.medium_key(query, blank=blank)
        root = self.family.encode(self.processor, self.config, text, images, videos, [medium] * len(images or videos))
        if self.features is not None:
            root = self.features.attach(root)
        self._keep(key, root)
        return root

    def _recent_outline(self, key: tuple[str, ...], query: Query, text: str, *, blank: bool) -> Root:
        """`_outline` of a query, which callers ask for again for each of its responses."""
        if key in self._recent:
            self._recent.move_to_end(key)
            return self._recent[key]
        outline = self._recent[key] = self._outline(query, text, blank=blank)
        if len(self._recent) > CACHED_OUTLINES:
            self._recent.popitem(last=False)
        return outline

    def _outline(self, query: Query, text: str, *, blank: bool) -> Root:
        return self._outlines.root(text, query.media_kind, self.media_size(query), self.medium_key(query, blank=blank))

    def media_size(self, query: Query) -> Size:
        """Width, height and number of sampled frames of a query's medium. Reads the header of a medium that was not validated."""
        if query.media is None:
            return (0, 0, 0)
        if query.media_size is not None:
            width, height, frames = query.media_size
        else:
            path = locate(self.media_root, query.media)
            names = frame_names(path) if query.media_kind == "video" else [""]
            frames = len(names)
            width, height = picture_size(path / names[0])
        return width, height, min(frames, self.max_frames)

    def medium_key(self, query: Query, *, blank: bool = False) -> str:
        """`Medium.key` of a query's medium, without opening it."""
        return digest_bytes(query.media_digest or query.media or "", str(self.max_frames), self.background, READER, str(blank))

    def _keep(self, key: tuple[str, ...], root: Root) -> None:
        size = root.nbytes
        if size > self._limit_bytes:
            return
        self._roots[key] = root
        self._root_bytes += size
        while self._root_bytes > self._limit_bytes:
            _, dropped = self._roots.popitem(last=False)
            self._root_bytes -= dropped.nbytes

    def load_image(self, query: Query, blank: bool) -> Image.Image:
        """The query's image in RGB, or a gray one of its size."""
        assert query.media is not None
        path = locate(self.media_root, query.media)
        return Image.new("RGB", picture_size(path), (BLANK_GRAY,) * 3) if blank else read_picture(path, self.background)

    def load_frames(self, query: Query, blank: bool) -> list[Image.Image]:
        """Uniformly sampled frames in order, in RGB and of the first one's size, or gray ones."""
        assert query.media is not None
        folder = locate(self.media_root, query.media)
        names = frame_names(folder)
        chosen = [names[index] for index in frame_indices(len(names), self.max_frames)]
        if blank:
            return [Image.new("RGB", picture_size(folder / names[0]), (BLANK_GRAY,) * 3)] * len(chosen)
        return read_frames(folder, chosen, self.background)


def _channels_first(pictures: Sequence[Image.Image]) -> Tensor:
    """Pixels [pictures, 3, H, W]. Given pictures in another form, a processor may take a side of 3 pixels for the colors."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
