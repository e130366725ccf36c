"""Counts a checkpoint's parameters by part from its config.json. It builds no module and needs no torch.

- Each family's function sums the weights of its modules; tests build the real modules and count them.
- A field that config.json omits has the library's default, which differs by family: `DEFAULTS`.

Names: H hidden size of the language model, D width of the vision tower, I width inside an MLP, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from components.errors import UserError
from components.families.digests import FAMILY_NAMES

Config = Mapping[str, Any]

_QWEN2 = {"hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 151936}
_QWEN2_VL = {"hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64, "vocab_size": 152064}
_PATCHES = {"depth": 32, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}

# Values of omitted fields, by (family, section).
DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("llava_onevision", "text"): {**_QWEN2, "num_key_value_heads": 32},
    ("llava_onevision", "vision"): {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        "vision_use_head": True,
    },
    ("internvl", "text"): {**_QWEN2, "num_key_value_heads": 32},
    ("internvl", "vision"): {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 448,
        "patch_size": 14,
        "num_channels": 3,
        "attention_bias": False,
        "use_qk_norm": False,
        "use_mask_token": False,
        "use_absolute_position_embeddings": True,
        "use_mean_pooling": True,
        "norm_type": "layer_norm",
    },
    ("qwen2_vl", "text"): {**_QWEN2_VL, "num_key_value_heads": 8},
    ("qwen2_vl", "vision"): {**_PATCHES, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4, "in_channels": 3},
    ("qwen2_5_vl", "text"): {**_QWEN2_VL, "num_key_value_heads": 8},
    ("qwen2_5_vl", "vision"): {**_PATCHES, "hidden_size": 3584, "intermediate_size": 3420, "out_hidden_size": 3584, "in_channels": 3},
    ("qwen3_vl", "text"): {**_QWEN2, "num_key_value_heads": 32, "head_dim": 128, "attention_bias": False},
    ("qwen3_vl", "vision"): {
        **_PATCHES,
        "depth": 27,
        "patch_size": 16,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "out_hidden_size": 3584,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": (8, 16, 24),
        "in_channels": 3,
    },
}
TIED = {"internvl": True}  # whether head and embedding are one tensor where config.json omits it; False for other families


@dataclass(frozen=True)
class Architecture:
    """A model for the plan: parameters by part, and the sizes that determine activations.

    A tied LM head counts under `language_model` and adds nothing under `lm_head`.
    """

    family: str
    parts: dict[str, int]
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    decoder_layer: int  # parameters of one layer of the language model
    linear_inputs_outputs: int  # sum over a layer's linear maps of inputs + outputs: the parameters of one LoRA rank
    attention_inputs_outputs: int  # the same over the four projections of attention
    vision_width: int
    vision_layers: int
    vision_intermediate: int
    feature_widths: tuple[int, ...]  # values a patch in the feature cache, one for each tapped layer
    config: Config

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parts.values())

    def lora(self, rank: int, targets: str) -> int:
        """Parameters of adapters of this rank on the language model's layers."""
        width = self.attention_inputs_outputs if targets == "attention" else self.linear_inputs_outputs
        return rank * width * self.layers

    def flops_per_token(self, *, backward: bool) -> float:
        """Operations of the language model and its head a token, without attention's scores (2 a weight forward, 4 more backward)."""
        weights = self.layers * self.decoder_layer + self.hidden * self.vocabulary
        return (6.0 if backward else 2.0) * weights


def section(config: Config, name: str) -> dict[str, Any]:
    """The "text" or "vision" section with the family's defaults. Older Qwen configs have the text's fields at the top level."""
    fields = config.get(f"{name}_config")
    if fields is None:
        fields = config if name == "text" else {}
    merged = {**DEFAULTS[config["model_type"], name], **{key: value for key, value in fields.items() if value is not None}}
    if "in_chans" in merged:
        merged["in_channels"] = merged["in_chans"]
    return merged


def architecture(config: Config, where: str = "config.json") -> Architecture:
    """Count a checkpoint's parameters. Raises UserError when the family is not supported or `where` is inconsistent."""
    family = config.get("model_type")
    if family not in FAMILY_NAMES:
        raise UserError(f"{where}: models of type '{family}' are not supported; the families are {', '.join(FAMILY_NAMES)}")
    try:
        return _count(str(family), config)
    except (TypeError, KeyError, ZeroDivisionError) as error:
        raise UserError(f"{where} can't be read as a model of type '{family}' ({error}): fetch the checkpoint again") from error


def is_tied(config: Config) -> bool:
    """Whether the LM head is the embedding."""
    family = str(config["model_type"])
    outer = config.get("tie_word_embeddings", TIED.get(family, False))
    inner = (config.get("text_config") or {}).get("tie_word_embeddings", False)
    # The Qwen-VL families read the flag of the text's section where the outer flag is off.
    return bool(outer or (inner and family.startswith("qwen")))


def _count(family: str, config: Config) -> Architecture:
    text, vision = section(config, "text"), section(config, "vision")
    hidden, inside, layers = text["hidden_size"], text["intermediate_size"], text["num_hidden_layers"]
    heads, groups = text["num_attention_heads"], text["num_key_value_heads"]
    head_dim = text.get("head_dim") or hidden // heads
    query, key_value = heads * head_dim, groups * head_dim
    normed = family == "qwen3_vl" or text.get("model_type") == "qwen3"
    bias = query + 2 * key_value if not normed else (query + 2 * key_value + hidden) * bool(text.get("attention_bias"))
    layer = 2 * hidden * query + 2 * hidden * key_value + bias + 2 * head_dim * normed + 3 * hidden * inside + 2 * hidden
    vocabulary, tied = text["vocab_size"], is_tied(config)
    vision_count, projector, widths = _FAMILIES[family](config, vision, hidden)
    attention = 2 * (hidden + query) + 2 * (hidden + key_value)
    return Architecture(
        family=family,
        parts={
            "tower": vision_count,
            "projector": projector,
            "language_model": vocabulary * hidden + layers * layer + hidden,
            "lm_head": 0 if tied else vocabulary * hidden,
        },
        hidden=hidden,
        layers=layers,
        heads=heads,
        key_value_heads=groups,
        head_dim=head_dim,
        intermediate=inside,
        vocabulary=vocabulary,
        tied=tied,
        decoder_layer=layer,
        linear_inputs_outputs=attention + 3 * (hidden + inside),
        attention_inputs_outputs=attention,
        vision_width=vision["embed_dim"] if family == "qwen2_vl" else vision["hidden_size"],
        vision_layers=vision["depth"] if "depth" in vision else vision["num_hidden_layers"],
        vision_intermediate=vision["embed_dim"] * vision["mlp_ratio"] if family == "qwen2_vl" else vision["intermediate_size"],
        feature_widths=widths,
        config=config,
    )


def linear(inputs: int, outputs: int, *, bias: bool = True) -> int:
    """Parameters of a linear map."""
    return inputs * outputs + outputs * bias


def pair(value: int | list[int] | tuple[int, ...]) -> tuple[int, int]:
    """A size as two sides; one number stands for both."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _llava_onevision(config: Config, vision: Config, hidden: int) -> tuple[int, int, tuple[int, ...]]:
    width, inside, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    positions = (vision["image_size"] // patch) ** 2
    embeddings = linear(vision["num_channels"] * patch**2, width) + positions * width
    block = 4 * linear(width, width) + linear(width, inside) + linear(inside, width) + 4 * width
    pooled = width + linear(width, 3 * width) + linear(width, width) + 2 * width + linear(width, inside) + linear(inside, width)
    vision_count = embeddings + vision["num_hidden_layers"] * block + 2 * width + pooled * bool(vision["vision_use_head"])
    chosen = config.get("vision_feature_layer", -1)
    feature = width * (1 if isinstance(chosen, int) else len(chosen))
    bias = bool(config.get("multimodal_projector_bias", True))
    return vision_count, linear(feature, hidden, bias=bias) + linear(hidden, hidden, bias=bias) + hidden, (feature,)


def _internvl(config: Config, vision: Config, hidden: int) -> tuple[int, int, tuple[int, ...]]:
    width, inside = vision["hidden_size"], vision["intermediate_size"]
    patch, size = pair(vision["patch_size"]), pair(vision["image_size"])
    positions = (size[0] // patch[0]) * (size[1] // patch[1]) + 1
    embeddings = width + linear(vision["num_channels"] * prod(patch), width) + width * bool(vision["use_mask_token"])
    embeddings += positions * width * bool(vision["use_absolute_position_embeddings"])
    norm = width * (2 if vision["norm_type"] == "layer_norm" else 1)
    attention = 3 * linear(width, width, bias=bool(vision["attention_bias"])) + linear(width, width)
    attention += 2 * width * bool(vision["use_qk_norm"])
    block = attention + linear(width, inside) + linear(inside, width) + 2 * norm + 2 * width
    vision_count = embeddings + vision["num_hidden_layers"] * block + 2 * width * (not vision["use_mean_pooling"])
    shuffled = width * round(1 / config.get("downsample_ratio", 0.5)) ** 2
    return vision_count, 2 * shuffled + linear(shuffled, hidden) + linear(hidden, hidden), (width,)


def _merger(width: int, merge: int, outputs: int, norm: int) -> int:
    return norm + linear(width * merge**2, width * merge**2) + linear(width * merge**2, outputs)


def _patches(vision: Config, width: int, *, bias: bool) -> int:
    return linear(vision["in_channels"] * vision["temporal_patch_size"] * prod(pair(vision["patch_size"])), width, bias=bias)


def _qwen2_vl(_config: Config, vision: Config, hidden: int) -> tuple[int, int, tuple[int, ...]]:
    width = vision["embed_dim"]
    inside = width * vision["mlp_ratio"]
    block = linear(width, 3 * width) + linear(width, width) + linear(width, inside) + linear(inside, width) + 4 * width
    vision_count = _patches(vision, width, bias=False) + vision["depth"] * block
    return vision_count, _merger(width, vision["spatial_merge_size"], hidden, 2 * width), (width,)


def _qwen2_5_vl(_config: Config, vision: Config, _hidden: int) -> tuple[int, int, tuple[int, ...]]:
    width, inside = vision["hidden_size"], vision["intermediate_size"]
    block = linear(width, 3 * width) + linear(width, width) + 2 * linear(width, inside) + linear(inside, width) + 2 * width
    vision_count = _patches(vision, width, bias=False) + vision["depth"] * block
    return vision_count, _merger(width, vision["spatial_merge_size"], vision["out_hidden_size"], width), (width,)


def _qwen3_vl(_config: Config, vision: Config, _hidden: int) -> tuple[int, int, tuple[int, ...]]:
    width, inside, merge, taps = (
        vision["hidden_size"],
        vision["intermediate_size"],
        vision["spatial_merge_size"],
        len(vision["deepstack_visual_indexes"]),
    )
    block = linear(width, 3 * width) + linear(width, width) + linear(width, inside) + linear(inside, width) + 4 * width
    vision_count = _patches(vision, width, bias=True) + vision["num_position_embeddings"] * width + vision["depth"] * block
    projector = _merger(width, merge, vision["out_hidden_size"], 2 * width)
    projector += taps * _merger(width, merge, vision["out_hidden_size"], 2 * width * merge**2)
    return vision_count, projector, (width,) * (1 + taps)


_FAMILIES = {
    "llava_onevision": _llava_onevision,
    "internvl": _internvl,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
}
