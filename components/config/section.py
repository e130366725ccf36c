"""What every section of params.yaml shares: unknown keys, NaN and infinity are refused, values never change."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A section, or a part of one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
