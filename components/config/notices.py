"""Section `notices`: which notices are sent."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.config.section import Section

NoticeKind = Literal["promoted", "refused", "failed", "recovered", "missed"]


class NoticeSettings(Section):
    """Kinds of notices, and when a run counts as missed."""

    kinds: list[NoticeKind]
    late_minutes: float = Field(gt=0)
