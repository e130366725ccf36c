"""Section `validate`: what is refused, and what is split off."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.config.section import Positive, Section, Share


class ValidateSettings(Section):
    """Limits on rows and files."""

    max_quarantined_share: Share
    heldout_share: float = Field(gt=0, lt=1)
    min_responses: int = Field(ge=2)
    max_response_characters: Positive
    ranking: Literal["auto", "ranks", "order"]
    max_contradictions: Share
    max_leaked_share: Share
