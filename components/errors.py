"""What went wrong, and whose it is to mend. Which kind each is, and whether it is worth another try: components/processes/fault_kinds.py."""

from __future__ import annotations

from pathlib import Path


class UserError(ValueError):
    """A mistake in input or settings: one sentence that says what, where and what to do. The command exits with 2.

    `stage` and `log` say where it was found, where that is known.
    """

    def __init__(self, sentence: str, *, stage: str | None = None, log: Path | None = None) -> None:
        super().__init__(sentence)
        self.stage = stage
        self.log = log


class ServiceAway(UserError):
    """MLflow or Prefect of this checkout does not answer: a person starts it, and a run that nobody watches waits and tries again."""


class StageFault(RuntimeError):
    """A stage failed for a reason that is not the user's input. The command exits with 1 and names the log.

    `stage` and `log` say where it happened, where that is known.
    """

    def __init__(self, sentence: str, *, stage: str | None = None, log: Path | None = None) -> None:
        super().__init__(sentence)
        self.stage = stage
        self.log = log


class TrainingFault(StageFault):
    """Training went wrong: a loss that is no number, weights that do not move, a policy that collapsed. Another try gives the same."""


class InfrastructureFault(StageFault):
    """The machine, a service or the network failed and not what ran there: another try goes on from what is kept."""


class Cancelled(RuntimeError):
    """Somebody asked for the end. The command exits with 130."""
