"""Sizes of the checkpoints of profiles/, for a plan before a fetch.

The tables have the fields of config.json that determine sizes. The config.json of a fetched checkpoint takes precedence.
"""

from __future__ import annotations

from typing import Any

from components.checkout import Checkout
from components.config.settings import Settings
from components.errors import UserError
from components.files import read_json
from components.rehearsal.parameters import Architecture, architecture

_SIGLIP_384 = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
_INTERNVIT_300M = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "attention_bias": True}
_QWEN2_HALF_B = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
}
_QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
_QWEN3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "llava-onevision-qwen2-0.5b-ov-hf": {
        "model_type": "llava_onevision",
        "text_config": {**_QWEN2_HALF_B, "vocab_size": 152000},
        "vision_config": _SIGLIP_384,
        "tie_word_embeddings": True,
    },
    "llava-onevision-qwen2-7b-ov-hf": {
        "model_type": "llava_onevision",
        "text_config": {**_QWEN2_7B, "vocab_size": 152128},
        "vision_config": _SIGLIP_384,
        "tie_word_embeddings": False,
    },
    "Qwen2-VL-7B-Instruct": {
        "model_type": "qwen2_vl",
        "text_config": {**_QWEN2_7B, "vocab_size": 152064},
        "vision_config": {"embed_dim": 1280, "hidden_size": 3584},
    },
    "Qwen2.5-VL-7B-Instruct": {
        "model_type": "qwen2_5_vl",
        "text_config": {**_QWEN2_7B, "vocab_size": 152064},
        "vision_config": {"hidden_size": 1280, "out_hidden_size": 3584},
    },
    "Qwen3-VL-8B-Instruct": {
        "model_type": "qwen3_vl",
        "text_config": {**_QWEN3_8B, "vocab_size": 151936},
        "vision_config": {"out_hidden_size": 4096},
    },
    "InternVL3-1B-hf": {
        "model_type": "internvl",
        "text_config": {**_QWEN2_HALF_B, "vocab_size": 151674},
        "vision_config": _INTERNVIT_300M,
        "tie_word_embeddings": False,
    },
    "InternVL3-8B-hf": {
        "model_type": "internvl",
        "text_config": {**_QWEN2_7B, "vocab_size": 151674},
        "vision_config": _INTERNVIT_300M,
        "tie_word_embeddings": False,
    },
}


def find_architecture(settings: Settings, checkout: Checkout) -> tuple[Architecture, str]:
    """The architecture of `model.base`, and its source. Raises UserError when the folder is missing and no table has its name."""
    base = settings.model.base
    path = checkout.root / base / "config.json"
    if path.is_file():
        try:
            config = read_json(path)
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON: fetch the checkpoint again") from error
        return architecture(config, str(base / "config.json")), str(base / "config.json")
    if base.name in PUBLISHED:
        return architecture(PUBLISHED[base.name], base.name), f"the known sizes of {base.name}: {base} is not there yet"
    raise UserError(
        f"model.base {base} has no config.json, and its name is none of {', '.join(sorted(PUBLISHED))}: "
        "fetch it with `mmalign model fetch`, or set model.base"
    )
