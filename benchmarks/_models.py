"""LLaVA-OneVision models of random weights and any width, with one image query whose lengths in tokens are exact.

The model reads an image as a base view and one tile: 2 * side * side features and a newline for each row of the tile. The rest of the root is
text, one token a character, so that every processor gives the sides of a comparison the same tokens.
"""

from __future__ import annotations

import copy
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from components.families.adapters import Root, family_of
from components.families.loading import set_attention
from components.trees.trees import Branch, Tree

PADDING, END = "<|endoftext|>", "<|im_end|>"
SPECIAL = [PADDING, END, "<image>", "<video>"]
PATCH = 14
NOISE = 0.004  # distance of a policy's weights from the reference's: log-probs differ by far more than fp32 rounding


@dataclass(frozen=True)
class Shape:
    """Widths of a model. `side` is the number of patches along an edge of a view."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    vision_hidden: int
    vision_intermediate: int
    vision_layers: int
    vision_heads: int
    side: int
    tied: bool = True

    @property
    def image_tokens(self) -> int:
        """Placeholders of an image in the root."""
        return 2 * self.side**2 + self.side


# For tests and trials of the benchmarks: all parts of a model, in milliseconds.
TRIAL = Shape(
    hidden=32,
    intermediate=64,
    layers=2,
    heads=4,
    key_value_heads=2,
    vocabulary=300,
    vision_hidden=32,
    vision_intermediate=64,
    vision_layers=1,
    vision_heads=2,
    side=3,
)


@dataclass(frozen=True)
class Task:
    """One query: its prompt, its image, its responses from best to worst, and their root."""

    processor: Any
    image: Image.Image
    prompt: str
    responses: tuple[str, ...]
    root: Root

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """All pairs (winner, loser); no two responses have the same rank."""
        count = len(self.responses)
        return [(winner, loser) for winner in range(count) for loser in range(winner + 1, count)]

    def branch(self, number: int) -> Branch:
        """A response and its end as a branch."""
        return Branch(tuple(self.processor.tokenizer(self.responses[number], add_special_tokens=False)["input_ids"]))

    @property
    def tree(self) -> Tree:
        """The query with all its responses."""
        return Tree(self.root, tuple(self.branch(number) for number in range(len(self.responses))))


def build_model(shape: Shape, processor: Any, *, dtype: torch.dtype = torch.float32, device: str = "cpu", attention: str = "sdpa") -> Any:
    """A model of random weights, built on the device; its vision tower is frozen, as in the paper (section 4)."""
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config, SiglipVisionConfig

    tokenizer = processor.tokenizer
    size = shape.side * PATCH
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=shape.vision_hidden,
            intermediate_size=shape.vision_intermediate,
            num_hidden_layers=shape.vision_layers,
            num_attention_heads=shape.vision_heads,
            image_size=size,
            patch_size=PATCH,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_value_heads,
            max_position_embeddings=131_072,
            tie_word_embeddings=shape.tied,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[size, size]],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=shape.tied,
    )
    config._attn_implementation = "sdpa"  # noqa: SLF001 - the way from_config itself chooses it
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            model = LlavaOnevisionForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default)
    for module in family_of(config).modules(model)["tower"]:
        module.requires_grad_(False)
    set_attention(model, attention)
    return model


def moved_copy(reference: Any) -> Any:
    """A policy: a copy of the reference with small changes in the trained weights, as after some steps."""
    policy = copy.deepcopy(reference)
    generator = torch.Generator(reference.device).manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, device=parameter.device, dtype=parameter.dtype)
                parameter.add_(noise, alpha=NOISE)
    return policy


def characters(special: Sequence[str]) -> Any:
    """A tokenizer that makes each character a token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PADDING, additional_special_tokens=list(special))


def build_processor(side: int) -> Any:
    """The family's own processor with a tokenizer that makes each character a token."""
    from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor

    size = {"height": side * PATCH, "width": side * PATCH}
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[[side * PATCH, side * PATCH]]),
        tokenizer=characters(SPECIAL),
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=side**2,
        vision_feature_select_strategy="full",
    )


def build_task(shape: Shape, processor: Any, config: Any, *, responses: int, root_tokens: int, response_tokens: int) -> Task:
    """A query of exactly these lengths in tokens. Raises ValueError when the image alone is longer than the root."""
    if root_tokens <= shape.image_tokens:
        raise ValueError(f"an image of {shape.image_tokens} tokens does not fit a root of {root_tokens}")
    random = np.random.default_rng(0)
    letters = np.array(list(string.ascii_lowercase + " "))
    size = shape.side * PATCH
    image = Image.fromarray(random.integers(0, 255, (size, size, 3), dtype=np.uint8))
    prompt = "<image>" + "".join(random.choice(letters, root_tokens - shape.image_tokens))
    texts = tuple("".join(random.choice(letters, response_tokens - 1)) + END for _ in range(responses))
    root = family_of(config).encode(processor, config, prompt, [image], [], ["image"])
    task = Task(processor, image, prompt, texts, root)
    assert len(root.input_ids) == root_tokens
    assert all(len(branch.input_ids) == response_tokens for branch in task.tree.branches)
    return task
