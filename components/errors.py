"""The errors that commands and stages raise, by who must act. components/processes/fault_kinds.py decides which of them a run retries."""

from __future__ import annotations

from pathlib import Path


class UserError(ValueError):
    """A mistake in input or settings. One sentence says what is wrong, where, and what to do. The command exits with 2.

    `stage` and `log` name where the mistake was found; None where nobody knows.
    """

    def __init__(self, sentence: str, *, stage: str | None = None, log: Path | None = None) -> None:
        super().__init__(sentence)
        self.stage = stage
        self.log = log


class ServiceAway(UserError):
    """MLflow or Prefect of this checkout does not answer. A person must start it; a scheduled run waits and retries."""


class StageFault(RuntimeError):
    """A stage failed, and the user's input is not the reason. The command exits with 1 and names the log.

    `stage` and `log` name where the stage failed; None where nobody knows.
    """

    def __init__(self, sentence: str, *, stage: str | None = None, log: Path | None = None) -> None:
        super().__init__(sentence)
        self.stage = stage
        self.log = log


class TrainingFault(StageFault):
    """Training went wrong: the loss is NaN, the weights do not change, or the policy collapsed. A retry gives the same result."""


class InfrastructureFault(StageFault):
    """The machine, a service or the network failed. A retry resumes from the last committed checkpoint."""


class Cancelled(RuntimeError):
    """A person or the scheduler cancelled the run. The command exits with 130."""
