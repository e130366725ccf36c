"""How a run of a deployment ended, for its notices, its page and its retries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["ok", "mistake", "training", "infrastructure", "cancelled", "fault"]


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended. `kind` says who must act, and whether a retry can help."""

    kind: Kind
    sentence: str = ""
    stage: str | None = None
    log: str | None = None
