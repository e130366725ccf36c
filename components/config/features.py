"""Section `features`: what is cached of the vision tower and of pixels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.config.section import Section


class FeatureSettings(Section):
    """Limits of both caches, and the dtype of cached features."""

    pixels_max_gb: float = Field(ge=0)
    cache: bool = False
    max_gb: float = Field(default=0.0, ge=0)
    dtype: Literal["fp32", "bf16"] = "fp32"
