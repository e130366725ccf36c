"""What a stage hands back: its figures, and what is worth keeping about the run that made them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class StageResult:
    """`metrics` are the same for equal inputs (metrics.json); `times` differ from run to run (run.json, with ids and digests).

    `curves` is a JSONL file, one object a logged step: `{"step": int, name: float, ...}`. `artifacts` are files or folders to keep with the
    run's record. `params` are extra facts worth a tag, such as digests.
    """

    metrics: dict[str, float | int | None]
    times: dict[str, float] = field(default_factory=dict)
    curves: Path | None = None
    artifacts: list[Path] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
