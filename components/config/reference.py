"""Section `reference`: how reference log-probs are computed."""

from __future__ import annotations

from components.config.inference import InferenceSettings


class ReferenceSettings(InferenceSettings):
    """Ranks and threads; nothing else."""
