"""Scratch of a stage (checkpoints, generated critiques) serves its resuming; once the stage has finished, the next run removes it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from components.storage.plan import Step


def remove_finished_scratch(root: Path, steps: Mapping[str, Step]) -> None:
    """Remove the scratch folders of stages that have nothing left to do."""
    for name, step in steps.items():
        if step.action == "skip":
            shutil.rmtree(root / ".mmalign" / "scratch" / name, ignore_errors=True)
