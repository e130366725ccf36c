"""Digests of checkpoint folders and the names of their processor files, without opening a model."""

from __future__ import annotations

from pathlib import Path

from components.files import digest_folder, read_json

# The files of a processor: an export copies them from its base, and `validate` depends on them.
FAMILY_NAMES = ("internvl", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "qwen3_vl")
PROCESSOR_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
)


HEAD_FILE = "score_head.safetensors"  # of a reward model, beside its language model
CONFIGURATIONS = ("config.json", "adapter_config.json")  # of a whole model, and of a folder of adapters


def is_checkpoint(path: Path) -> bool:
    """Whether a folder contains a model, whole or as adapters."""
    return any((path / name).is_file() for name in CONFIGURATIONS)


def has_weights(path: Path) -> bool:
    """Whether a checkpoint folder has its configuration and its weights: each file that the index names, where there is one."""
    present = {item.name for item in path.glob("*.safetensors")} if is_checkpoint(path) else set()
    named = {shard for index in path.glob("*.safetensors.index.json") for shard in read_json(index)["weight_map"].values()}
    return bool(present) and named <= present


def model_digest(path: Path) -> str:
    """sha256 over the weights and the configuration of a checkpoint folder."""
    return digest_folder(path, [p.name for p in path.iterdir() if p.suffix == ".safetensors" or p.name in CONFIGURATIONS])


def processor_digest(path: Path) -> str:
    """sha256 over the processor files, which turn text and media into a model's input."""
    return digest_folder(path, [name for name in PROCESSOR_FILES if (path / name).is_file()])
