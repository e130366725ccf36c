"""Opening checkpoints and saving them.

- Only safetensors are read; nothing is fetched; no code of a checkpoint is run.
- Exports carry the base's own processor, tokenizer and template files byte for byte: a load and a save would change them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from components.errors import UserError
from components.vlm.digests import PROCESSOR_FILES


def load_model(path: Path, *, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """Open a checkpoint folder in evaluation mode. Raises UserError when it is missing or of a family that is not supported."""
    if not (path / "config.json").is_file():
        raise UserError(f"{path} holds no config.json: set model.base in params.yaml to a checkpoint folder")
    model = AutoModelForImageTextToText.from_pretrained(
        path, local_files_only=True, use_safetensors=True, dtype=dtype, attn_implementation=attention
    )
    if model.config.model_type != "llava_onevision":
        family = model.config.model_type
        raise UserError(f"{path} is of the family '{family}': set model.base in params.yaml to a LLaVA-OneVision checkpoint")
    return model.eval()


def freeze_tower(model: Any) -> None:
    """Freeze the vision tower (paper section 4: the vision encoder is not trained)."""
    tower: nn.Module = model.model.vision_tower
    tower.requires_grad_(requires_grad=False)


def save_model(model: Any, folder: Path, base: Path) -> None:
    """Write `model` as safetensors with the processor files of `base`. Equal weights give equal bytes."""
    model.save_pretrained(folder)
    for name in PROCESSOR_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
