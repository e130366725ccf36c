"""Roots without pixels: a prompt's tokens, its positions and the shapes of its media, from the media's sizes alone.

- The family's own processor runs on meta tensors, which have a shape and no content: it decodes, resizes and computes nothing. Apart from the
  pixels, the result is what the processor makes of the media themselves.
- Prompts that are alike up to the end of their media, with media of one size, share that part. Only the text behind it is tokenized for each.
  The placeholder before that text goes along, so that the tokenizer splits there, as it does in the whole prompt.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.families.base import Family, Kind, Medium, Root

OPENINGS = 512  # that stay in memory; of 5,000 tokens with three axes of positions, each takes 80 kB
LENGTHS = 32_768  # of openings, which conversations share less often than questions
Size = tuple[int, int, int]  # width and height in pixels, and number of frames
Sized = tuple[Kind, Size]


@dataclass(frozen=True)
class _Opening:
    """A prompt up to the last token before its text: `next_position` is that of the text's first token."""

    tokens: np.ndarray[Any, np.dtype[np.int32]]
    media: tuple[Medium, ...]
    positions_AL: Tensor | None
    next_position: int


class Outlines:
    """Outlines of one processor's prompts."""

    def __init__(self, family: Family, processor: Any, config: Any) -> None:
        self._family, self._processor, self._config = family, processor, config
        self._openings: OrderedDict[tuple[str, tuple[Sized, ...]], _Opening | None] = OrderedDict()
        self._lengths: OrderedDict[tuple[str, tuple[Sized, ...]], int] = OrderedDict()

    def root(self, text: str, media: tuple[Sized, ...], keys: Sequence[str]) -> Root:
        """The root of a rendered prompt. Its media have `keys`; their pixels are meta tensors."""
        if not media:
            return self._family.encode(self._processor, self._config, text, [], [], [])
        head, tail = self._cut(text)
        name = (head, media)
        if name not in self._openings:
            whole = self._processed(text, media, keys)
            self._keep(name, self._opening(whole, tail))
            return whole
        self._openings.move_to_end(name)
        opening = self._openings[name]
        return self._processed(text, media, keys) if opening is None else self._joined(opening, tail, keys)

    def length(self, text: str, media: tuple[Sized, ...]) -> int:
        """Tokens of `root`."""
        if media:
            head, tail = self._cut(text)
            opening = self._lengths.get((head, media))
            if opening is not None:
                return opening + len(self._tokens(tail))
        return len(self.root(text, media, [""] * len(media)).input_ids)

    def _cut(self, text: str) -> tuple[str, str]:
        """The prompt up to its last placeholder, and the text behind. Raises ValueError for a prompt without one."""
        *_, last = re.finditer(f"{re.escape(self._processor.image_token)}|{re.escape(self._processor.video_token)}", text)
        return text[: last.end()], text[last.end() :]

    def _processed(self, text: str, media: tuple[Sized, ...], keys: Sequence[str]) -> Root:
        images = [_blank(3, height, width) for kind, (width, height, _) in media if kind == "image"]
        videos = [_blank(frames, 3, height, width) for kind, (width, height, frames) in media if kind == "video"]
        return self._family.encode(self._processor, self._config, text, images, videos, keys)

    def _opening(self, whole: Root, tail: str) -> _Opening | None:
        """The part of `whole` before `tail`; None if the tokenizer does not split there, so that every prompt is processed whole."""
        following = self._tokens(tail)
        split = len(whole.input_ids) - len(following)
        if not following or list(whole.input_ids[split:]) != following:
            return None
        positions = whole.positions_AL
        return _Opening(
            np.array(whole.input_ids[:split], dtype=np.int32),
            whole.media,
            None if positions is None else positions[:, :split].to(torch.int32),
            split if positions is None else int(positions[0, split]),
        )

    def _joined(self, opening: _Opening, tail: str, keys: Sequence[str]) -> Root:
        following = self._tokens(tail)
        positions = opening.positions_AL
        if positions is not None:
            behind = torch.arange(opening.next_position, opening.next_position + len(following)).expand(len(positions), -1)
            positions = torch.cat([positions.long(), behind], dim=1)
        media = tuple(replace(medium, key=key) for medium, key in zip(opening.media, keys, strict=True))
        return Root((*opening.tokens.tolist(), *following), media, positions)

    def _tokens(self, tail: str) -> list[int]:
        """Tokens of the text behind a placeholder."""
        tokenizer = self._processor.tokenizer
        placeholder = tokenizer.convert_ids_to_tokens(self._family.placeholder_ids(self._config)[0])
        return list(tokenizer(placeholder + tail, add_special_tokens=False)["input_ids"][1:])

    def _keep(self, name: tuple[str, tuple[Sized, ...]], opening: _Opening | None) -> None:
        self._openings[name] = opening
        if opening is not None:
            self._lengths[name] = len(opening.tokens)
        for cached, limit in ((self._openings, OPENINGS), (self._lengths, LENGTHS)):
            if len(cached) > limit:
                cached.popitem(last=False)


def _blank(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8, device="meta")
