"""What the sections of both trainings share."""

from __future__ import annotations

from pydantic import Field

from components.config.section import Positive, Section, Share


class OptimizationSettings(Section):
    """Rate, length and step of a training."""

    learning_rate: float = Field(gt=0)
    warmup_share: Share
    epochs: Positive
    max_steps: Positive | None
    queries_per_step: Positive
