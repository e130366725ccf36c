"""Section `reward`: the training of the critique-based reward model (paper section 3)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.config.optimization import OptimizationSettings
from components.config.section import Share

CritiqueSource = Literal["annotated", "mixed", "expanded", "none"]  # what a reward model is trained on


class RewardSettings(OptimizationSettings):
    """Critiques, weights of the losses, and the calibration part."""

    instruction: str = Field(min_length=1)
    critique_source: Literal["auto", "annotated", "mixed", "expanded", "none"] = "auto"
    least_annotated_share: Share = 0.5
    own_share: Share
    critique_weight: float = Field(ge=0)
    tie_weight: float = Field(ge=0)
    calibration_share: float = Field(ge=0, lt=1)
