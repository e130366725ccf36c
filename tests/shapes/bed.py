"""A bed of checkpoints: one for every profile, with all that its real one has but the depth and the width of the layers.

Real: vocabulary and special tokens, rows of the embedding, head counts and shared keys, rope, tiles and patches, processor and generation
files in their published form, chat template, names and number of the weight files. Smaller: layers, hidden sizes, and with them the size of a
head (but for Qwen3-VL, whose heads do not depend on the hidden size) and the M-RoPE sections, in proportion.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from components.families.hub.published import Published, table
from tests.shapes.vocabulary import save_tokenizer

HEAD = 16  # size of a head: the smallest that flex attention's kernel takes
SECTIONS = {16: [2, 3, 3], 8: [1, 1, 2]}  # of M-RoPE by size of a head, near the published [16, 24, 24] of 128
VISION = {"hidden_size": 128, "intermediate_size": 64}


def smaller(name: str, head: int = HEAD, layers: int = 2) -> dict[str, Any]:
    """The fields of config.json that are smaller than the published ones, by dotted name. Qwen3-VL always has the layers that DeepStack needs."""
    config = table()[name].config
    text = config.get("text_config", config)
    if name == "Qwen3-VL-8B-Instruct":
        language = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4}  # three for DeepStack, and one
        vision = {**VISION, "depth": 4, "deepstack_visual_indexes": [0, 1, 2], "out_hidden_size": 64}
    else:
        hidden = text["num_attention_heads"] * head
        language = {"hidden_size": hidden, "intermediate_size": 64, "num_hidden_layers": layers, "max_window_layers": layers}
        vision = {
            "Qwen2.5-VL-7B-Instruct": {**VISION, "depth": layers, "fullatt_block_indexes": [layers - 1], "out_hidden_size": hidden},
            "Qwen2-VL-7B-Instruct": {"embed_dim": 128, "mlp_ratio": 1, "depth": layers, "hidden_size": hidden},
        }.get(name, {**VISION, "num_hidden_layers": layers})
    prefix = "text_config." if "text_config" in config else ""
    sections = {} if prefix else {"rope_scaling.mrope_section": SECTIONS[head]}
    return {
        **{f"{prefix}{field}": value for field, value in language.items()},
        **sections,
        **{f"vision_config.{field}": value for field, value in vision.items()},
    }


# transformers' names of weights to those in the published files.
NAMES: dict[str, list[tuple[str, str]]] = {
    "flat": [(r"^model\.language_model\.", "model."), (r"^model\.visual\.", "visual.")],
    "nested": [],
    "llava": [
        (r"^lm_head\.", "language_model.lm_head."),
        (r"^model\.language_model\.", "language_model.model."),
        (r"^model\.vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),
        (r"^model\.", ""),
    ],
    "internvl": [(r"^lm_head\.", "language_model.lm_head."), (r"^model\.language_model\.", "language_model.model."), (r"^model\.", "")],
}


def build(name: str, folder: Path, *, head: int = HEAD, layers: int = 2, seed: int = 0) -> Path:
    """Write the bed's checkpoint of the profile whose base is `name`, with weights drawn from `seed`."""
    published = table()[name]
    published.write(folder, smaller(name, head, layers))
    settings: dict[str, Any] = {"eos_token": published.eos, "pad_token": published.pad, "model_max_length": 32768}
    if published.named_tokens:
        settings["extra_special_tokens"] = dict(published.named_tokens)
    save_tokenizer(folder, published.tokens, published.plain_tokens, **settings)
    save_weights(folder, published, seed)
    return folder


def save_weights(folder: Path, published: Published, seed: int) -> None:
    """Write random weights in bf16 under the published names, in as many files as the real checkpoint has."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    state: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        if config.tie_word_embeddings and name == "lm_head.weight":
            continue
        width = 0.02 if "embed" in name or "lm_head" in name else value[0].numel() ** -0.5
        drawn = torch.empty(value.shape, dtype=torch.bfloat16).uniform_(-width, width, generator=generator)
        norm = name.endswith("weight") and value.dim() == 1
        state[published_name(name, published.weight_names)] = drawn + 1 if norm else drawn
    write_shards(folder, state, published.shards)


def published_name(name: str, naming: str) -> str:
    """The name in the published weight files of a weight that transformers calls `name`."""
    for pattern, replacement in NAMES[naming]:
        renamed = re.sub(pattern, replacement, name)
        if renamed != name:
            return renamed
    return name


def write_shards(folder: Path, state: Mapping[str, torch.Tensor], shards: int) -> None:
    """Write weights as `shards` files with an index, or as one file."""
    names = list(state)
    if shards == 1:
        save_file(dict(state), folder / "model.safetensors", metadata={"format": "pt"})
        return
    size = math.ceil(len(names) / shards)
    where: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: state[name].contiguous() for name in names[number * size : (number + 1) * size]}
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
