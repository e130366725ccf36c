"""Section `stages`: when and where each stage runs."""

from __future__ import annotations

from pydantic import Field

from components.config.section import Section
from components.stages import StageName


class StageSettings(Section):
    """Deadline and GPUs of one stage."""

    deadline_minutes: float = Field(gt=0)
    gpus: int = Field(ge=0)


StagesSettings = dict[StageName, StageSettings]
