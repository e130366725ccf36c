"""The base model's architecture: a small LLaVA-OneVision, of the same parts as the real ones.

- 64-pixel images in patches of 16: 16 tokens a tile, 36 an image by the standard path with the one pinpoint (64, 64), 4 a video frame and
  one for the whole video.
- The vision tower's position embedding starts as a two-dimensional sine-cosine table. From a random start the model does not learn left and
  right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PATCH, IMAGE = 16, 64
HIDDEN = 128
VISION_LAYERS, LANGUAGE_LAYERS = 3, 3
POSITION_SCALE = 0.7  # size of the sine-cosine table beside the patch embeddings


def build_config(vocabulary: int, tokens: dict[str, int]) -> Any:
    """The configuration for `vocabulary` entries. `tokens` holds the ids of `image`, `video`, `pad` and `end`."""
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=4,
        image_size=IMAGE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LANGUAGE_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=tokens["end"],
        pad_token_id=tokens["pad"],
    )
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokens["image"],
        video_token_index=tokens["video"],
        image_grid_pinpoints=[[IMAGE, IMAGE]],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )


def build_model(vocabulary: int, tokens: dict[str, int], seed: int) -> Any:
    """An untrained model in fp32 with sdpa attention, the same for the same seed."""
    from transformers import LlavaOnevisionForConditionalGeneration

    torch.manual_seed(seed)
    config = build_config(vocabulary, tokens)
    config._attn_implementation = "sdpa"  # noqa: SLF001 - the way from_config itself chooses it
    model = LlavaOnevisionForConditionalGeneration(config)
    embedding = model.model.vision_tower.embeddings.position_embedding
    with torch.no_grad():
        embedding.weight.copy_(POSITION_SCALE * sine_cosine_table(IMAGE // PATCH, HIDDEN))
    return model


def sine_cosine_table(side: int, width: int) -> Tensor:
    """Two-dimensional sine-cosine positions [side * side, width]: one half of the width for the row, one for the column."""
    quarter = width // 4
    frequencies = 1.0 / (100.0 ** (torch.arange(quarter) / quarter))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    parts = []
    for index in (rows, columns):
        angles = index.flatten()[:, None] * frequencies[None]
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1)
