"""What the sections of both trainings share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from components.config.section import Positive, Section, Share

if TYPE_CHECKING:
    from components.config.settings import Settings


class OptimizationSettings(Section):
    """Rate, length and step of a training."""

    learning_rate: float = Field(gt=0)
    warmup_share: Share
    epochs: Positive
    max_steps: Positive | None
    queries_per_step: Positive


def optimization_of(settings: Settings, stage: str) -> OptimizationSettings:
    """The section of a training stage."""
    return settings.reward if stage == "reward" else settings.alignment
