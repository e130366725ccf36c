"""What a stage hands back: its metrics, times and digests. Curves and artifacts go to the recorder that it is given."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class StageResult:
    """`metrics` are the same for equal inputs (metrics.json); `times` differ from run to run and go to run.json, with `digests` by name."""

    metrics: dict[str, float | int | None]
    times: dict[str, float] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
