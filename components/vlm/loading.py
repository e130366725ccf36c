"""Opening checkpoints and saving them.

- Only safetensors are read; nothing is fetched; no code of a checkpoint is run.
- Exports carry the base's own processor, tokenizer and template files byte for byte: a load and a save would change them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from components.config import ModelSettings, TrainingSettings
from components.errors import UserError
from components.vlm.digests import PROCESSOR_FILES
from components.vlm.families import family_of


def load_model(path: Path, *, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """Open a checkpoint folder in evaluation mode. Raises UserError when it is missing or of a family that is not supported."""
    if not (path / "config.json").is_file():
        raise UserError(f"{path} holds no config.json: set model.base in params.yaml to a checkpoint folder")
    model = AutoModelForImageTextToText.from_pretrained(
        path, local_files_only=True, use_safetensors=True, dtype=dtype, attn_implementation=attention
    )
    family_of(model.config)
    return model.eval()


def load_trainable(path: Path, model: ModelSettings, training: TrainingSettings) -> Any:
    """Open a checkpoint folder for training: parts whose learning rate is 0 are frozen."""
    opened = load_model(path, attention=model.attention)
    rates = training.parts.model_dump()
    for part, modules in family_of(opened.config).modules(opened).items():
        for module in modules:
            module.requires_grad_(rates[part] > 0)
    return opened


def save_model(model: Any, folder: Path, base: Path) -> None:
    """Write `model` as safetensors with the processor files of `base`. Equal weights give equal bytes."""
    model.save_pretrained(folder)
    for name in PROCESSOR_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)


def save_trained(model: Any, folder: Path, base: Path) -> None:
    """Write what `load_trainable` opened and training changed, with the processor files of `base`."""
    save_model(model, folder, base)
