"""Section `validate`: what is refused, and what is split off."""

from __future__ import annotations

from pydantic import Field

from components.config.section import Positive, Section, Share


class ValidateSettings(Section):
    """Limits on rows and files."""

    max_quarantined_share: Share
    heldout_share: float = Field(gt=0, lt=1)
    min_responses: int = Field(ge=2)
    max_response_characters: Positive
