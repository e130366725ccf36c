"""Section `model`: the checkpoint that all starts from, and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from components.config.section import Positive, Section


class LoraSettings(Section):
    """Adapters of the language model; rank 0 means none."""

    rank: int = Field(default=0, ge=0)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["attention", "linear"] = "linear"
    merge: bool = True


class ModelSettings(Section):
    """The base model, its limits on lengths, and its adapters."""

    base: Path
    attention: Literal["sdpa", "flex_attention"]
    max_length: Positive
    max_frames: Positive
    background: str = Field(default="#ffffff", pattern=r"^#[0-9a-fA-F]{6}$")
    lora: LoraSettings = LoraSettings()
