"""The adapter of a family of vision-language models: the interface for trees, features and the engine.

A family is one file. It counts placeholders (through the family's own processor), computes the root's positions, takes features from the vision
tower, gives them to the language model, and names the modules of each part.

Shapes: A position axes (1, or 3 for M-RoPE), L tokens, H hidden size of the language model, D width of the vision tower's features.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from inspect import signature
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from PIL import Image
from torch import Tensor, nn

Kind = Literal["image", "video"]
Part = Literal["tower", "projector", "language_model", "lm_head"]
PARTS: tuple[Part, ...] = ("tower", "projector", "language_model", "lm_head")
Picture = Image.Image | Tensor  # or [3, height, width], uint8
Frames = np.ndarray[Any, Any] | Tensor  # [frames, height, width, 3], or a tensor [frames, 3, height, width], uint8

TOKEN_BYTES = 36  # of an int in a tuple

VisionOutput = tuple[Tensor, ...]  # a medium's features before the projector, each [..., D]; several if a family taps deeper layers


@dataclass(frozen=True)
class Medium:
    """One image or one video, ready for the vision tower.

    `key` names its pixels: a digest of the media bytes and of the settings that read them. `tensors` is the output of the family's processor.
    `features` is the vision tower's cached output; with it the tower does not run.
    """

    kind: Kind
    key: str
    tensors: dict[str, Tensor]
    features: VisionOutput | None = None


@dataclass(frozen=True)
class Root:
    """A prompt with its media, ready for a model. `input_ids` has the placeholders expanded; `media` stand in their order.

    In an outline (components.families.outlines), the media's pixels are meta tensors: they have shapes and no content.

    `positions_AL` are the root's positions for M-RoPE, else None for 0, 1, 2, ...; a branch continues from `next_position` on every axis.
    """

    input_ids: tuple[int, ...]
    media: tuple[Medium, ...] = ()
    positions_AL: Tensor | None = None

    @property
    def kind(self) -> str:
        """ "image", "video" or "text", by the first medium."""
        return self.media[0].kind if self.media else "text"

    @cached_property
    def next_position(self) -> int:
        """The position of a branch's first token."""
        return len(self.input_ids) if self.positions_AL is None else int(self.positions_AL.max()) + 1

    @property
    def nbytes(self) -> int:
        """Bytes in memory: of the media's tensors, the positions and the tokens."""
        tensors = [tensor for medium in self.media for tensor in medium.tensors.values()]
        positions = [] if self.positions_AL is None else [self.positions_AL]
        return sum(tensor.nbytes for tensor in [*tensors, *positions]) + TOKEN_BYTES * len(self.input_ids)


@dataclass(frozen=True)
class Projected:
    """A medium as the language model reads it: one row a placeholder [L, H], and the rows [L, H] that each of the deeper layers adds."""

    features_LH: Tensor
    deeper: tuple[Tensor, ...] = field(default=())


class FeatureSource(Protocol):
    """Gives media their cached vision tower output."""

    def attach(self, root: Root) -> Root:
        """`root` with features in those of its media that are cached."""
        ...


def kinds_in(text: str, processor: Any, images: Sequence[Any], videos: Sequence[Any]) -> list[Kind]:
    """The kinds of a rendered prompt's media, in its order. Raises ValueError unless `images` and `videos` are as many as their placeholders."""
    marks: dict[str, Kind] = {processor.image_token: "image", processor.video_token: "video"}
    kinds = [marks[mark] for mark in re.findall("|".join(map(re.escape, marks)), text)]
    if (kinds.count("image"), kinds.count("video")) != (len(images), len(videos)):
        raise ValueError(
            f"the prompt has placeholders of {kinds.count('image')} images and {kinds.count('video')} videos, not of {len(images)} and {len(videos)}"
        )
    return kinds


class Family(ABC):
    """The adapter of one family. It has no state, so that one instance serves every model."""

    model_type: ClassVar[str]
    axes: ClassVar[int] = 1  # position axes: 3 for M-RoPE
    mask_by_layer: ClassVar[bool] = True  # the language model takes a mask for each kind of layers, not one mask
    frozen: ClassVar[tuple[Part, ...]] = ("tower",)  # by default (paper section 4)

    def check(self, config: Any) -> None:  # noqa: B027 -- most families have nothing to refuse
        """Raises UserError for a checkpoint of this type that the adapter can't read."""

    @abstractmethod
    def encode(
        self, processor: Any, config: Any, text: str, images: Sequence[Picture], videos: Sequence[Frames], keys: Sequence[str]
    ) -> Root:
        """Run the family's processor on a rendered prompt with its media; `keys` name the media in the prompt's order, whatever their kinds.

        The processor must not sample the frames again. Raises ValueError when prompt and media do not match.
        """

    def variants(self, kinds: Sequence[Kind]) -> list[tuple[str, ...]]:
        """For media keys: names how the processor reads each medium of a prompt, where that depends on the others; () as if it were alone."""
        return [() for _ in kinds]

    @abstractmethod
    def placeholder_ids(self, config: Any) -> tuple[int, ...]:
        """Tokens that stand for a media feature."""

    def structure(self, processor: Any) -> set[str]:
        """Tokens that write a prompt's media, beside the tokenizer's special ones: texts must not contain them."""
        return {processor.image_token, processor.video_token}

    def replaced_tokens(self, processor: Any) -> set[str]:  # noqa: ARG002 -- for families with such tokens
        """Tokens that the processor replaces by others, so that a model never reads them and they need no row of the embedding."""
        return set()

    @abstractmethod
    def vision_tower(self, model: Any, media: Sequence[Medium]) -> list[VisionOutput]:
        """Features before the projector of media of one kind and equal tensor shapes, in order."""

    @abstractmethod
    def project(self, model: Any, media: Sequence[Medium], outputs: Sequence[VisionOutput]) -> list[Projected]:
        """Run the projector and packing: the rows for the placeholders of each medium."""

    @abstractmethod
    def modules(self, model: Any) -> dict[Part, list[nn.Module | nn.Parameter]]:
        """The modules of each part; together they are the whole model."""

    @abstractmethod
    def dummy(self, config: Any) -> Medium:
        """The smallest medium. A batch without media runs it through vision tower and projector if every rank must call them."""

    def language(
        self,
        model: Any,
        embeddings_RLH: Tensor,
        mask: Any,
        positions_RL: Tensor,
        deeper: Sequence[Tensor] = (),
        media_RL: Tensor | None = None,
        key_values: Any = None,
    ) -> Tensor:
        """Last hidden states [R, L, H] of the language model.

        `mask` is additive and 4-D, or a flex BlockMask. `positions_RL` is [R, L], or [A, R, L] for M-RoPE. `deeper` are rows for the
        positions marked in `media_RL`, a tensor for each of the first layers; families without such layers get none. The tokens follow
        those in `key_values`, a cache that takes them up.
        """
        language_model = model.model.language_model
        arguments = self.deeper_arguments(deeper, media_RL)
        if key_values is not None:
            kind: Any = type(language_model)
            arguments[_cache_argument(kind)] = key_values
        outputs = language_model(
            inputs_embeds=embeddings_RLH,
            # A window that covers the row changes nothing; longer rows have been refused.
            attention_mask={"full_attention": mask, "sliding_attention": mask} if self.mask_by_layer else mask,
            position_ids=positions_RL,
            use_cache=key_values is not None,
            **arguments,
        )
        return outputs.last_hidden_state  # type: ignore[no-any-return]

    def deeper_arguments(self, deeper: Sequence[Tensor], media_RL: Tensor | None) -> dict[str, Any]:  # noqa: ARG002 -- for families with such layers
        """The language model's arguments for the rows that deeper layers add."""
        assert not deeper
        return {}


@cache
def _cache_argument(language_model: type[nn.Module]) -> str:
    """The name of the argument for cached keys and values: transformers renamed it in 5.24."""
    return "cache" if "cache" in signature(language_model.forward).parameters else "past_key_values"
