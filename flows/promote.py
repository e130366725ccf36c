"""What follows a run's stages: the gate, the registry, the page. Also what `mmalign promote` needs of supervision. Knows nothing of Prefect."""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from pathlib import Path

from components.config.settings import Settings
from components.errors import StageFault
from components.processes.slots.taking import is_waiting
from components.registry.policy import ModelName
from components.registry.promotion import EvaluateAgain, GateOutcome, settle
from flows.cancellation import RunCancelled
from flows.screen import Screen
from flows.supervisor import supervise

KINDS: dict[ModelName, str] = {"mm-policy": "policy", "mm-reward": "reward"}


def judge_run(root: Path, settings: Settings, *, logs: Path, cancel: threading.Event, screen: Screen) -> GateOutcome:
    """Judge, register and promote this run's models. UserError for a mistake in the policy file; what the store raises is raised."""
    return settle(root, evaluating(root, settings, logs=logs, cancel=cancel, screen=screen), screen.say)


def evaluating(root: Path, settings: Settings, *, logs: Path, cancel: threading.Event, screen: Screen) -> EvaluateAgain:
    """A way to evaluate an earlier model on today's held-out queries: in a process of its own, under the supervisor."""

    def evaluate_again(name: ModelName, folder: Path, table: Path) -> None:
        screen.say(f"{name}: today's held-out queries, facts or evaluation differ from the champion's: evaluating it again")
        outcome = supervise(
            [sys.executable, "-m", "components.evaluation.again", KINDS[name], str(folder), str(table)],
            stage="evaluate",
            root=root,
            log=logs / f"evaluate-{name}.log",
            deadline_seconds=settings.stages["evaluate"].deadline_minutes * 60,
            cancel=cancel,
            screen=screen,
            paused=partial(is_waiting, root, "evaluate"),
            environment={"PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))},
        )
        if outcome.end == "cancelled":
            raise RunCancelled("cancelled while an earlier model was evaluated again: nothing was promoted")
        if outcome.end != "ok":
            raise StageFault(f"evaluating {name} again failed; its log: {outcome.log}")

    return evaluate_again
