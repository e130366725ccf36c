"""Section `training`: the engine of both trainings."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from components.config.section import Positive, Section

INTERVAL = re.compile(r"([1-9]\d*) (steps?|s|min)")


class PartRates(Section):
    """Factors of the learning rate by part of the model; 0 freezes a part."""

    tower: float = Field(ge=0)
    projector: float = Field(ge=0)
    language_model: float = Field(ge=0)
    lm_head: float = Field(ge=0)


class TrainingSettings(Section):
    """Engine, ranks, precision, batches and checkpoints."""

    engine: Literal["deepspeed", "ddp"]
    zero_stage: Literal[1, 2, 3]
    offload: Literal["none", "optimizer", "all"]
    gradient_checkpointing: Literal["none", "selective", "all"]
    kernels: Literal["torch", "liger"]
    deterministic: bool
    parts: PartRates
    ranks: Positive
    threads: Positive
    precision: Literal["fp32", "bf16"]
    row_tokens: Positive
    batch_rows: Positive
    max_grad_norm: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    checkpoint_every: str
    keep_checkpoints: int = Field(ge=2)
    seed: int

    @property
    def checkpoint_steps(self) -> int | None:
        """Steps between checkpoints, where they are counted in steps."""
        number, unit = self._checkpoint_interval()
        return number if unit.startswith("step") else None

    @property
    def checkpoint_seconds(self) -> int | None:
        """Seconds between checkpoints, where they are counted in time."""
        number, unit = self._checkpoint_interval()
        return None if unit.startswith("step") else number * (60 if unit == "min" else 1)

    def _checkpoint_interval(self) -> tuple[int, str]:
        match = INTERVAL.fullmatch(self.checkpoint_every)
        assert match, "validated"
        return int(match[1]), match[2]

    @field_validator("checkpoint_every")
    @classmethod
    def _is_an_interval(cls, value: str) -> str:
        if not INTERVAL.fullmatch(value):
            raise ValueError(f'"{value}" is no interval between checkpoints: write it as 15 min, 90 s or 20 steps')
        return value

    @field_validator("offload")
    @classmethod
    def _weights_are_offloaded_by_zero_3(cls, value: str, info: ValidationInfo) -> str:
        if value != "none" and info.data.get("engine") == "ddp":
            raise ValueError("offloading needs training.engine deepspeed")
        if value == "all" and info.data.get("zero_stage") != 3:
            raise ValueError("weights are offloaded by training.zero_stage 3 only: set it, or set training.offload to optimizer")
        return value
