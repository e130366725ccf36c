"""One stage as Prefect and the pipeline see it: `dvc repro` of that stage alone, under the supervisor.

Nothing is cached here: DVC decides what is stale and restores what it knows, and two caches would only disagree.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from components.config import Settings, StageName
from components.files import read_json
from flows.screen import Screen
from flows.supervisor import End, supervise


@dataclass(frozen=True)
class StageOutcome:
    """How a stage ended. `ran` is False where DVC restored its outputs; `mistake` is a user's mistake in one sentence."""

    stage: StageName
    end: End
    ran: bool
    seconds: float
    log: Path
    mistake: str | None


def run_stage(
    stage: StageName,
    *,
    root: Path,
    settings: Settings,
    logs: Path,
    cancel: threading.Event,
    screen: Screen,
    environment: Mapping[str, str],
) -> StageOutcome:
    """Reproduce one stage: its command runs, or DVC restores its outputs. `--wait-for-lock`, since without it a finished training is lost
    when another process happens to hold DVC's lock at its end."""
    outcome = supervise(
        ["dvc", "--wait-for-lock", "repro", "--single-item", stage],
        stage=stage,
        root=root,
        log=logs / f"{stage}.log",
        deadline_seconds=settings.stages[stage].deadline_minutes * 60,
        cancel=cancel,
        screen=screen,
        environment=environment,
    )
    attempt = _attempt(root, stage)
    ran = attempt.get("mark") == outcome.mark
    return StageOutcome(stage, outcome.end, ran, outcome.seconds, outcome.log, attempt.get("mistake") if ran else None)


def _attempt(root: Path, stage: StageName) -> dict[str, str | None]:
    """What `mmalign stage` noted when it last started, with the mark that it carried."""
    path = root / ".mmalign" / "attempts" / f"{stage}.json"
    noted: dict[str, str | None] = read_json(path) if path.is_file() else {}
    return noted
