"""One stage as Prefect and the pipeline see it: `dvc repro` of that stage alone, under the supervisor.

Nothing is cached here: DVC decides what is stale and restores what it knows, and two caches would only disagree.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from components.checkout import Checkout
from components.closures import write_digests
from components.config.settings import Settings
from components.errors import InfrastructureFault, StageFault, TrainingFault, UserError
from components.files import read_json
from components.processes.fault_kinds import FaultKind, kind_named, kind_of_words
from components.processes.log_lines import last_lines
from components.processes.machine_errors import described_by_words, full_disk_of
from components.processes.slots.taking import is_waiting
from components.stages import StageName
from components.validation.duration import validation_seconds
from flows.console import Console
from flows.dvc_processes import DvcProcesses
from flows.supervisor import Command, End, Outcome, supervise

DATA_MARGIN = 2.0  # of the time that validation may take
WORDS_OF_DVC = 5  # last lines of a log, in which DVC says why it failed before or after the stage's own work


@dataclass(frozen=True)
class StageOutcome:
    """How a stage ended. `ran` is False where DVC skipped it or restored its outputs; `mistake` is a user's mistake in one sentence.

    `kind` and `sentence` say of a stage that failed whose it is to mend, and why where that is known.
    """

    stage: StageName
    end: End | Literal["skipped"]
    ran: bool = False
    seconds: float = 0.0
    log: Path = Path()
    mistake: str | None = None
    kind: FaultKind | None = None
    sentence: str | None = None


def run_stage(
    stage: StageName,
    *,
    checkout: Checkout,
    dvc: DvcProcesses,
    settings: Settings,
    logs: Path,
    cancel: threading.Event,
    console: Console,
) -> StageOutcome:
    """Reproduce one stage: its command runs, or DVC restores its outputs. `--wait-for-lock`, since without it a finished training is lost
    when another process happens to hold DVC's lock at its end.
    """
    write_digests(checkout, [stage])  # `--single-item` leaves out the stage `code`, which writes them otherwise
    outcome = supervise(
        Command(["--wait-for-lock", "repro", "--single-item", stage], checkout, logs / f"{stage}.log", dvc=dvc),
        stage=stage,
        deadline_seconds=deadline(stage, settings, checkout),
        cancel=cancel,
        console=console,
        paused=partial(is_waiting, checkout, stage),
    )
    attempt = _attempt(checkout, stage)
    ran = attempt.get("mark") == outcome.mark
    noted = attempt if ran else {"kind": "ok"}
    kind, sentence = _why(outcome, noted)
    return StageOutcome(stage, outcome.end, ran, outcome.seconds, outcome.log, noted.get("mistake"), kind, sentence)


def deadline(stage: StageName, settings: Settings, checkout: Checkout) -> float:
    """Seconds after which a stage is ended: its setting, and for validation no less than its data may take."""
    seconds = settings.stages[stage].deadline_minutes * 60
    return max(seconds, DATA_MARGIN * validation_seconds(checkout.preferences)) if stage == "validate" else seconds


def fault_of(outcome: StageOutcome) -> Exception:
    """The error of a stage that failed."""
    if outcome.mistake is not None and outcome.kind == "mistake":
        return UserError(f"stage {outcome.stage}: {outcome.mistake}", stage=outcome.stage, log=outcome.log)
    why = "passed its deadline" if outcome.end == "deadline" else "failed"
    because = f" ({outcome.sentence})" if outcome.sentence and outcome.kind == "infrastructure" else ""
    kinds = {"infrastructure": InfrastructureFault, "training": TrainingFault}
    fault = kinds.get(outcome.kind or "fault", StageFault)
    return fault(f"stage {outcome.stage} {why}{because}; its log: {outcome.log}", stage=outcome.stage, log=outcome.log)


def _why(outcome: Outcome, noted: Mapping[str, str | None]) -> tuple[FaultKind | None, str | None]:
    """The kind and the reason of a stage's end. A stage that began and noted no end was killed; one that ended well leaves the fault to DVC."""
    if outcome.end == "ok":
        return None, None
    if outcome.end == "cancelled":
        return "cancelled", None
    if outcome.end == "deadline":
        return "fault", None
    words = "\n".join(last_lines(outcome.log, WORDS_OF_DVC))
    full = described_by_words(words) or full_disk_of(outcome.log)
    if noted.get("kind") is None:  # killed, or without room for its note
        return "infrastructure", full or "it was killed"
    if noted["kind"] != "ok":
        return kind_named(noted["kind"]), noted.get("sentence")
    if outcome.returncode < 0:
        return "infrastructure", f"dvc was ended by signal {-outcome.returncode}"
    return "infrastructure" if full else kind_of_words(words), full


def _attempt(checkout: Checkout, stage: StageName) -> dict[str, str | None]:
    """What `mmalign stage` noted when it last started, with the mark that it carried."""
    path = checkout.attempts / f"{stage}.json"
    noted: dict[str, str | None] = read_json(path) if path.is_file() else {}
    return noted
