"""Section `critique`: how the reward model writes critiques."""

from __future__ import annotations

from typing import Literal

from components.config.inference import InferenceSettings
from components.config.section import Positive


class CritiqueSettings(InferenceSettings):
    """Who writes critiques, their length and batches."""

    engine: Literal["local", "endpoint"]
    max_new_tokens: Positive
    batch_size: Positive
