"""Section `critique`: how the reward model writes critiques."""

from __future__ import annotations

from components.config.inference import InferenceSettings
from components.config.section import Positive


class CritiqueSettings(InferenceSettings):
    """Length and batches of critiques."""

    max_new_tokens: Positive
    batch_size: Positive
