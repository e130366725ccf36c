"""The closing figures of a run, from its curves."""

from __future__ import annotations

import json
from pathlib import Path

LAST_STEPS = 10


def last_figures(curves: Path, *names: str) -> dict[str, float | int | None]:
    """The mean over the last steps of each named metric, None where it was never logged."""
    records = [json.loads(line) for line in curves.read_text(encoding="utf-8").splitlines()[-LAST_STEPS:]]
    found: dict[str, float | int | None] = {}
    for name in names:
        values = [record[name] for record in records if record.get(name) is not None]
        found[name.replace("/", ".")] = sum(values) / len(values) if values else None
    return found
