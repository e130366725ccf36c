"""Turns a query into tokens and pixels, for the policy and for the judge.

- A prompt consists of a *root* (media and all text up to the response) and *branches* (a response, or a response with its critique). Separate
  tokenization gives a branch the same tokens after every root, and generation the same tokens as training.
- The family's own processor reads the root, so that a model trained here behaves the same when a user opens it with AutoProcessor.
- It never cuts images. Validation refuses a query that does not fit.
- An *outline* is a root without pixels. Lengths come from outlines, and a medium whose features are cached is never opened.
- Roots with pixels stay in memory up to `features.pixels_max_gb`; of the others, which cost no more than a tokenization, the last few, without
  features.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from components.errors import UserError
from components.families import lora
from components.families.adapters import Family, FeatureSource, Root, family_of
from components.families.chat_template import ChatTemplate, judge_turns
from components.families.opening import open_config, open_processor
from components.families.outlines import Outlines, Sized
from components.files import digest_bytes
from components.preferences.frames import frame_indices, frame_names
from components.preferences.media import READER, locate, picture_size, read_frames, read_picture
from components.preferences.record import Medium, Query

if TYPE_CHECKING:
    from components.config.features import FeatureSettings
    from components.config.model import ModelSettings

CACHED_OUTLINES = 64  # roots without pixels that stay in memory, for callers who ask again for each response
BLANK_GRAY = 128  # the value of every pixel of a blanked image: the middle of the range, which the processor maps to about 0


class Preprocessor:
    """Builds roots and branches for one base model. Media paths are relative to `media_root`."""

    def __init__(self, base: Path, media_root: Path, model: ModelSettings, features: FeatureSettings) -> None:
        self.processor: Any = open_processor(base)
        self.tokenizer: Any = self.processor.tokenizer
        whole = lora.base_of(base) if lora.is_adapters(base) else base
        self.config: Any = open_config(whole)
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
        self.template = ChatTemplate(base, self.processor, self.family)
        self._outlines = Outlines(self.family, self.processor, self.config)
        self._limit_bytes = int(features.pixels_max_gb * 1e9)

    def policy_root(self, query: Query, blank: bool = False) -> Root:
        """The root of responses: the conversation with its media, and the opening of the assistant's turn.

        `blank` replaces the media's pixels by gray ones.
        """
        return self._root(query, self.template.prompt(query), blank=blank)

    def judge_root(self, query: Query, instruction: str, blank: bool = False) -> Root:
        """The root of a response and its critique (paper section 3): earlier turns, media, instruction, question, "Answer:".

        `blank` replaces the media's pixels by gray ones, to measure how much the judge depends on them.
        """
        return self._root(query, self._judge_text(query, instruction), blank=blank)

    def policy_length(self, query: Query) -> int:
        """Tokens of the policy's root."""
        return self._outlines.length(self.template.prompt(query), self._sized(query))

    def judge_length(self, query: Query, instruction: str) -> int:
        """Tokens of the judge's root."""
        return self._outlines.length(self._judge_text(query, instruction), self._sized(query))

    def judge_outline(self, query: Query, instruction: str, blank: bool = False) -> Root:
        """The judge's root without pixels."""
        return self._outline(query, self._judge_text(query, instruction), blank=blank)

    def response_ids(self, text: str) -> list[int]:
        """A policy branch: the response's tokens and the end of the turn."""
        return [*self._tokens(text), self.end_id]

    def judge_ids(self, response: str) -> list[int]:
        """The tokens between a judge's root and the critique: the response, and the opening of the assistant's turn."""
        return [*self._tokens(response), *self.tokenizer(self.template.between, add_special_tokens=False)["input_ids"]]

    def critique_ids(self, critique: str) -> list[int]:
        """The critique's tokens and the end of the turn, where the score head reads."""
        return [*self._tokens(critique), self.end_id]

    @cached_property
    def end_id(self) -> int:
        """The token that ends a turn: the first special one after the assistant's text in the chat template."""
        after = self.tokenizer(self.template.end, add_special_tokens=False)["input_ids"]
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
        self.template.refuse_unusable()
        _ = self.end_id

    def _tokens(self, text: str) -> list[int]:
        # Text from data must never become a special token.
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def _judge_text(self, query: Query, instruction: str) -> str:
        return self.template.judged(judge_turns(query, instruction), query.kinds)

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

    def _root(self, query: Query, text: str, *, blank: bool) -> Root:
        keys = self.medium_keys(query, blank=blank)
        name = (text, *(medium.path for medium in query.media), *keys)
        if name in self._roots:
            self._roots.move_to_end(name)
            return self._roots[name]
        if not query.media or self.features is not None:
            root = self._recent_outline(name, query, text, blank=blank)
            if self.features is not None:
                root = self.features.attach(root)
            if all(medium.features is not None for medium in root.media):
                return root
        images = [_channels_first([self.load_image(medium, blank)])[0] for medium in query.media if medium.kind == "image"]
        videos = [_channels_first(self.load_frames(medium, blank)) for medium in query.media if medium.kind == "video"]
        root = self.family.encode(self.processor, self.config, text, images, videos, keys)
        if self.features is not None:
            root = self.features.attach(root)
        self._keep(name, root)
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
        return self._outlines.root(text, self._sized(query), self.medium_keys(query, blank=blank))

    def _sized(self, query: Query) -> tuple[Sized, ...]:
        """Kind of each medium, its width and height, and its number of sampled frames. Reads the header of one that was not validated."""
        return tuple((medium.kind, self.media_size(medium)) for medium in query.media)

    def media_size(self, medium: Medium) -> tuple[int, int, int]:
        """Width, height and number of sampled frames of a medium."""
        if medium.size is not None:
            width, height, frames = medium.size
        else:
            path = locate(self.media_root, medium.path)
            names = frame_names(path) if medium.kind == "video" else [""]
            frames = len(names)
            width, height = picture_size(path / names[0])
        return width, height, min(frames, self.max_frames)

    def medium_keys(self, query: Query, *, blank: bool = False) -> list[str]:
        """`Medium.key` of each of a query's media, without opening them."""
        variants = self.family.variants(query.kinds)
        return [
            digest_bytes(medium.digest or medium.path, str(self.max_frames), self.background, READER, str(blank), *variant)
            for medium, variant in zip(query.media, variants, strict=True)
        ]

    def _keep(self, key: tuple[str, ...], root: Root) -> None:
        size = root.nbytes
        if size > self._limit_bytes:
            return
        self._roots[key] = root
        self._root_bytes += size
        while self._root_bytes > self._limit_bytes:
            _, dropped = self._roots.popitem(last=False)
            self._root_bytes -= dropped.nbytes

    def load_image(self, medium: Medium, blank: bool) -> Image.Image:
        """An image in RGB, or a gray one of its size."""
        path = locate(self.media_root, medium.path)
        return Image.new("RGB", picture_size(path), (BLANK_GRAY,) * 3) if blank else read_picture(path, self.background)

    def load_frames(self, medium: Medium, blank: bool) -> list[Image.Image]:
        """Uniformly sampled frames in order, in RGB and of the first one's size, or gray ones."""
        folder = locate(self.media_root, medium.path)
        names = frame_names(folder)
        chosen = [names[index] for index in frame_indices(len(names), self.max_frames)]
        if blank:
            return [Image.new("RGB", picture_size(folder / names[0]), (BLANK_GRAY,) * 3)] * len(chosen)
        return read_frames(folder, chosen, self.background)


def _channels_first(pictures: Sequence[Image.Image]) -> Tensor:
    """Pixels [pictures, 3, H, W]. Given pictures in another form, a processor may take a side of 3 pixels for the colors."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
