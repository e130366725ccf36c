"""Tiny configurations of all families, with sizes that no two parts share, so that a confusion of fields changes a count."""

from __future__ import annotations

from typing import Any

from components.config.settings import Settings, parse_settings
from tests.settings import shipped

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 500,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llava_onevision": {
        "text_config": {"model_type": "qwen2", **TEXT},
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 16,
            "vision_use_head": False,
        },
        "vision_feature_layer": [-2, -1],
        "tie_word_embeddings": False,
    },
    "internvl": {
        "text_config": {"model_type": "qwen2", **TEXT},
        "vision_config": {
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": [32, 32],
            "patch_size": [8, 8],
            "attention_bias": True,
        },
    },
    "qwen2_vl": {"text_config": TEXT, "vision_config": {"depth": 2, "embed_dim": 48, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2}},
    "qwen2_5_vl": {
        "text_config": {**TEXT, "tie_word_embeddings": True},
        "vision_config": {
            "depth": 2,
            "hidden_size": 48,
            "intermediate_size": 80,
            "out_hidden_size": 64,
            "num_heads": 4,
            "fullatt_block_indexes": [1],
        },
    },
    "qwen3_vl": {
        "text_config": {**TEXT, "head_dim": 20},
        "vision_config": {
            "depth": 3,
            "hidden_size": 48,
            "intermediate_size": 80,
            "out_hidden_size": 64,
            "num_heads": 4,
            "deepstack_visual_indexes": [0, 1],
            "num_position_embeddings": 64,
        },
    },
}


def settings(**changes: dict[str, Any]) -> Settings:
    """The shipped settings with `changes` a section."""
    values = shipped()
    for section, keys in changes.items():
        values[section].update(keys)
    return parse_settings(values, "params.yaml")
