"""Section `evaluate`: judge, answers and intervals."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.config.inference import InferenceSettings
from components.config.section import Positive


class EvaluateSettings(InferenceSettings):
    """How answers are written and judged, and how sure metrics are stated."""

    engine: Literal["local", "endpoint"]
    judge: Literal["truth", "reference_answer"]
    max_new_tokens: Positive
    batch_size: Positive
    confidence: float = Field(gt=0, lt=1)
    samples: Positive
