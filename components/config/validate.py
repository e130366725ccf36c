"""Section `validate`: what is refused, and what is split off."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.config.section import Positive, Section, Share

PIL_PIXELS = 178_956_970  # PIL itself refuses an image with more


class ValidateSettings(Section):
    """Limits on rows and files."""

    max_quarantined_share: Share
    heldout_share: float = Field(gt=0, lt=1)
    min_responses: int = Field(ge=2)
    max_responses: int = Field(default=64, ge=2)
    max_response_characters: Positive
    ranking: Literal["auto", "ranks", "order"]
    max_contradictions: Share
    max_leaked_share: Share
    max_pixels: int = Field(default=64_000_000, ge=1, le=PIL_PIXELS)
    max_media_pixels: Positive = 128_000_000
    max_folder_frames: Positive = 512
    max_scans: Positive = 64
    max_media_seconds: float = Field(default=1.0, gt=0)
    max_media_gb: float = Field(default=1.0, ge=0.25)
