"""What an adapter says about a family of vision-language models: everything that trees, features and the engine need to know.

A family is one file. It says how placeholders are counted (through the family's own processor), how the root's positions are computed,
where the tower's features come out and where they go in, and which modules make up its parts.

Shapes: A position axes (1, or 3 for M-RoPE), L tokens, H hidden size of the language model, D width of the tower's features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

Kind = Literal["image", "video"]
Part = Literal["tower", "projector", "language_model", "lm_head"]
PARTS: tuple[Part, ...] = ("tower", "projector", "language_model", "lm_head")
Frames = np.ndarray[Any, Any]  # [frames, height, width, 3], uint8

TowerOutput = tuple[Tensor, ...]  # a medium's features before the projector, each [..., D]; further ones where a family taps deeper layers


@dataclass(frozen=True)
class Medium:
    """One image or one video, ready for the tower.

    `key` names its pixels: a digest of the media bytes and of how they were read. `tensors` holds what the family's processor made of it.
    `features` is the tower's output where it is known from before: the tower is then not run.
    """

    kind: Kind
    key: str
    tensors: dict[str, Tensor]
    features: TowerOutput | None = None


@dataclass(frozen=True)
class Root:
    """A prompt with its media, ready for a model. `input_ids` has the placeholders expanded; `media` stand in their order.

    `positions_AL` are the root's positions where they are not 0, 1, 2, ... (M-RoPE); a branch goes on from `next_position` on every axis.
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
        """Bytes of the media's tensors."""
        return sum(tensor.nbytes for medium in self.media for tensor in medium.tensors.values())


@dataclass(frozen=True)
class Projected:
    """A medium as the language model reads it: one row a placeholder [L, H], and what is added in deeper layers [L, H] each."""

    features_LH: Tensor
    deeper: tuple[Tensor, ...] = field(default=())


class FeatureSource(Protocol):
    """Gives media the tower's output that is kept of them."""

    def attach(self, root: Root) -> Root:
        """`root` with features in its media, where they are known."""
        ...


class Family(ABC):
    """The adapter of one family. It holds no state, so that one instance serves every model."""

    model_type: ClassVar[str]
    axes: ClassVar[int] = 1  # position axes: 3 for M-RoPE
    frozen: ClassVar[tuple[Part, ...]] = ("tower",)  # by default (paper section 4)

    def check(self, config: Any) -> None:  # noqa: B027 -- most families have nothing to refuse
        """Raises UserError for a checkpoint of this type that the adapter can't read."""

    @abstractmethod
    def encode(
        self, processor: Any, config: Any, text: str, images: Sequence[Image.Image], videos: Sequence[Frames], keys: Sequence[str]
    ) -> Root:
        """Run the family's processor on a rendered prompt with its media, of one kind; `keys` name the media in order.

        Frames [n, H, W, 3] are taken as they are: not sampled again. Raises ValueError when prompt and media do not fit each other.
        """

    @abstractmethod
    def placeholder_ids(self, config: Any) -> tuple[int, ...]:
        """Tokens that stand for a media feature."""

    def structure(self, processor: Any) -> set[str]:
        """Tokens that a prompt's media are written with, beside the tokenizer's special ones: texts must not contain them."""
        return {processor.image_token, processor.video_token}

    @abstractmethod
    def tower(self, model: Any, media: Sequence[Medium]) -> list[TowerOutput]:
        """Features before the projector of media of one kind and equal tensor shapes, in order."""

    @abstractmethod
    def project(self, model: Any, media: Sequence[Medium], outputs: Sequence[TowerOutput]) -> list[Projected]:
        """Projector and packing: what goes to the placeholders of each medium."""

    @abstractmethod
    def modules(self, model: Any) -> dict[Part, list[nn.Module | nn.Parameter]]:
        """What each part is made of; together they are the whole model."""

    @abstractmethod
    def dummy(self, config: Any) -> Medium:
        """The smallest medium: what a batch without media runs through tower and projector where every rank has to."""

    def language(
        self, model: Any, embeddings_RLH: Tensor, mask: Any, positions_RL: Tensor, deeper: Sequence[Tensor], media_RL: Tensor
    ) -> Tensor:
        """Last hidden states [R, L, H] of the language model.

        `mask` is additive and 4-D, or a flex BlockMask. `positions_RL` is [R, L], or [A, R, L] for M-RoPE. `deeper` are rows for the
        positions marked in `media_RL`, a tensor for each of the first layers; families without such layers get none.
        """
        assert not deeper
        assert media_RL.dtype == torch.bool
        # A window that covers the row cuts nothing off; shorter ones are refused before.
        masks = {"full_attention": mask, "sliding_attention": mask}
        outputs = model.model.language_model(inputs_embeds=embeddings_RLH, attention_mask=masks, position_ids=positions_RL, use_cache=False)
        return outputs.last_hidden_state  # type: ignore[no-any-return]

    def extend(
        self,
        model: Any,
        embeddings_RLH: Tensor,
        attention_RL: Tensor,
        positions_ARL: Tensor,
        cache: Any,
        deeper: Sequence[Tensor] = (),
        media_RL: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states [R, L, H] of tokens that follow what `cache` holds, which grows by them.

        `attention_RL` is 1 for a token and 0 for padding, over the cached tokens and the new ones.
        """
        language_model = model.model.language_model
        # transformers renamed the argument in 5.24.
        arguments = {"cache" if "cache" in signature(language_model.forward).parameters else "past_key_values": cache}
        if media_RL is not None:
            arguments.update(self.deeper_arguments(deeper, media_RL))
        outputs = language_model(
            inputs_embeds=embeddings_RLH, attention_mask=attention_RL, position_ids=positions_ARL, use_cache=True, **arguments
        )
        return outputs.last_hidden_state  # type: ignore[no-any-return]

    def deeper_arguments(self, deeper: Sequence[Tensor], media_RL: Tensor) -> dict[str, Any]:  # noqa: ARG002 -- for families with such layers
        """How the language model is told what to add in deeper layers."""
        assert not deeper
        return {}
