"""Section `clean`: how long unused files stay."""

from __future__ import annotations

from pydantic import Field

from components.config.section import Section


class CleanSettings(Section):
    """Days after which each kind of unused file goes."""

    scratch_days: float = Field(ge=0)
    logs_days: float = Field(ge=0)
    clones_days: float = Field(ge=0)
    cache_days: float = Field(ge=0)
