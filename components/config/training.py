"""Section `training`: the engine of both trainings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from components.config.section import Positive, Section


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
    gradient_checkpointing: bool
    parts: PartRates
    ranks: Positive
    threads: Positive
    precision: Literal["fp32", "bf16"]
    row_tokens: Positive
    batch_rows: Positive
    max_grad_norm: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    checkpoint_steps: Positive
    keep_checkpoints: int = Field(ge=2)
    seed: int

    @field_validator("offload")
    @classmethod
    def _weights_are_offloaded_by_zero_3(cls, value: str, info: ValidationInfo) -> str:
        if value != "none" and info.data.get("engine") == "ddp":
            raise ValueError("offloading needs training.engine deepspeed")
        if value == "all" and info.data.get("zero_stage") != 3:
            raise ValueError("weights are offloaded by training.zero_stage 3 only: set it, or set training.offload to optimizer")
        return value
