"""A Qwen2.5-VL model of random weights and any width, for comparisons of writing; the shape is that of `benchmarks._models`.

The model reads an image of `side` * `side` tokens, each of 2 x 2 patches.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks._models import END, PADDING, PATCH, Shape, characters

MERGE = 2
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
MARKS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def build_processor() -> Any:
    """The family's own processor with a tokenizer that makes each character a token."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    patches = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": MERGE}
    # The processor takes the template's place for videos from the class; no prompt here has one.
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**patches, size={"shortest_edge": 1, "longest_edge": 1 << 24}),
        characters([PADDING, END, *MARKS]),
        Qwen2VLVideoProcessor(**patches),
    )


def build_model(shape: Shape, processor: Any) -> Any:
    """A model of random weights."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    start, end, image, video = processor.tokenizer.convert_tokens_to_ids(MARKS)
    half = shape.hidden // shape.heads // 2
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_value_heads,
            "bos_token_id": None,
            "eos_token_id": processor.tokenizer.eos_token_id,
            "pad_token_id": processor.tokenizer.pad_token_id,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8],  # 16, 24, 24 of 64 in the real ones
            },
        },
        vision_config={
            "depth": shape.vision_layers,
            "hidden_size": shape.vision_hidden,
            "intermediate_size": shape.vision_intermediate,
            "num_heads": shape.vision_heads,
            "out_hidden_size": shape.hidden,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "fullatt_block_indexes": [shape.vision_layers - 1],
        },
        tie_word_embeddings=shape.tied,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    config._attn_implementation = "sdpa"  # noqa: SLF001 - the way from_config itself chooses it
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(config)
