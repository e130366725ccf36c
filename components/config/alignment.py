"""Section `alignment`: MM-DPO and its beta schedules (paper section 4)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from components.config.optimization import OptimizationSettings
from components.config.section import Share


class AlignmentSettings(OptimizationSettings):
    """Margins, betas and weights of the loss."""

    beta: float = Field(gt=0)
    beta_weight: float = Field(ge=0)
    beta_scale: float = Field(gt=0)
    beta_schedule: Literal["constant", "drs", "beta_dpo", "madpo"]
    beta_momentum: Share
    loss_type: Literal["sigmoid", "ipo"]
    margins: Literal["raw", "standardized", "calibrated"]
    margin_control: Literal["none", "shuffled", "reversed"]
    missing_margin: Literal["beta", "drop", "error"]
    normalize: Literal["pair", "query"]
    log_probs: Literal["sum", "mean"]
    label_smoothing: float = Field(ge=0, lt=0.5)
    preference_weight: float = Field(ge=0)
    sft_weight: float = Field(ge=0)
    sft_per: Literal["pair", "query"]
    image_weight: float = Field(ge=0)
    diagnosed_queries: int | None = Field(ge=2)
    seed: int | None = Field(ge=0)

    @field_validator("loss_type")
    @classmethod
    def _constant_beta_for_ipo(cls, value: str, info: ValidationInfo) -> str:
        schedule = info.data.get("beta_schedule", "constant")
        if value == "ipo" and schedule != "constant":
            # The target of IPO is 1 / (2 beta): a larger beta would push a pair less, not more.
            raise ValueError(f"IPO goes with alignment.beta_schedule constant only, not {schedule}: set one of the two keys")
        return value

    @field_validator("label_smoothing")
    @classmethod
    def _no_smoothing_for_ipo(cls, value: float, info: ValidationInfo) -> float:
        if value > 0 and info.data.get("loss_type") == "ipo":
            raise ValueError("label smoothing has no part in IPO: set it to 0, or alignment.loss_type to sigmoid")
        return value

    @field_validator("sft_weight")
    @classmethod
    def _some_loss(cls, value: float, info: ValidationInfo) -> float:
        if value == 0 and info.data.get("preference_weight") == 0:
            raise ValueError("alignment.preference_weight is 0, too, so there is no loss: raise one of the two")
        return value
