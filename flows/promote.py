"""Judges a run's models after its stages, and evaluates earlier models for the gate and `mmalign promote`. Does not use Prefect."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

from components.checkout import Checkout
from components.config.settings import Settings
from components.errors import StageFault
from components.processes.slots.taking import is_waiting
from components.registry.policy import ModelName
from components.registry.promotion import GateOutcome, judge_models
from components.registry.result_tables import Reevaluate
from components.stages import command
from flows.cancellation import RunCancelled
from flows.console import Console
from flows.supervisor import Command, supervise

KINDS: dict[ModelName, str] = {"mm-policy": "policy", "mm-reward": "reward"}


def judge_run(checkout: Checkout, settings: Settings, *, logs: Path, cancel: threading.Event, console: Console) -> GateOutcome:
    """Judge, register and promote this run's models. Raises UserError for a mistake in the policy file, and the store's errors."""
    return judge_models(checkout, reevaluator(checkout, settings, logs=logs, cancel=cancel, console=console), console.print)


def reevaluator(checkout: Checkout, settings: Settings, *, logs: Path, cancel: threading.Event, console: Console) -> Reevaluate:
    """A function that evaluates an earlier model on today's held-out queries, in its own process under the supervisor."""

    def reevaluate(name: ModelName, folder: Path, table: Path) -> None:
        console.print(f"{name}: today's held-out queries, ground truth or evaluation differ from the champion's: evaluating it again")
        words = [*command("reevaluate"), KINDS[name], str(folder), str(table)]
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, [str(checkout.root), os.environ.get("PYTHONPATH", "")]))}
        outcome = supervise(
            Command(words, checkout, logs / f"evaluate-{name}.log", environment),
            stage="evaluate",
            deadline_seconds=settings.stages["evaluate"].deadline_minutes * 60,
            cancel=cancel,
            console=console,
            paused=partial(is_waiting, checkout, "evaluate"),
        )
        if outcome.end == "cancelled":
            raise RunCancelled(f"the run was cancelled while it evaluated an earlier {name}: nothing was promoted")
        if outcome.end != "ok":
            raise StageFault(f"the evaluation of an earlier {name} failed; its log: {outcome.log}")

    return reevaluate
