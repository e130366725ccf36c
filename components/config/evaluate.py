"""Section `evaluate`: judge, answers and intervals."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from components.config.inference import InferenceSettings
from components.config.section import Positive


class EvaluateSettings(InferenceSettings):
    """How answers are written and judged, and how sure metrics are stated."""

    engine: Literal["local", "endpoint"]
    judges: tuple[Literal["ground_truth", "rules", "model", "reward_model"], ...] = Field(min_length=1)
    max_new_tokens: Positive
    batch_size: Positive
    confidence: float = Field(gt=0, lt=1)
    samples: Positive
    fresh_share: float = Field(ge=0, le=0.5)

    @field_validator("judges")
    @classmethod
    def _once_each(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("input should name each judge once: the first one that has a verdict decides")
        return value
