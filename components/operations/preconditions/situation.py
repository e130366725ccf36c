"""What the checks look at: the checkout, its settings, and the stages that would run. What is slow to read is read once, when a check wants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from components.checkout import Checkout
from components.config.settings import Settings
from components.errors import UserError
from components.stages import STAGE_NAMES, StageName

if TYPE_CHECKING:
    from components.rehearsal.plan import Plan
    from components.reward.critique_source import Annotation
    from components.storage.data_version import DataState
    from components.storage.plan import Step

RUNS = ("run", "run_if_changed")  # steps for which a stage's command may start; a restored stage needs no GPU


@dataclass(frozen=True)
class Situation:
    """A run that somebody is about to start. `stages` are those whose commands may run.

    `compared` is data/ against data.dvc, where the caller has compared them already. With `bundled_rows` the person wants to train another
    base on the bundled rows.
    """

    checkout: Checkout
    settings: Settings
    stages: tuple[StageName, ...] = STAGE_NAMES
    compared: DataState | None = None
    bundled_rows: bool = False

    @cached_property
    def data(self) -> DataState | None:
        """data/ against data.dvc; None where neither can be read, or the checkout is none of DVC's."""
        if self.compared is not None:
            return self.compared
        if not self.checkout.dvc.is_dir():
            return None
        from components.storage.data_version import data_state

        try:
            return data_state(self.checkout)
        except UserError:
            return None

    @cached_property
    def plan(self) -> Plan | None:
        """The plan of memory, disk and time; None where the base model's sizes are unknown."""
        from components.rehearsal.devices import planned_machine
        from components.rehearsal.plan import make_plan

        try:
            return make_plan(self.settings, self.checkout, planned_machine(self.settings, None))
        except UserError:
            return None

    @cached_property
    def annotation(self) -> Annotation | None:
        """How many responses of the training rows have a critique; None where no row can be read line by line."""
        from components.reward.critique_source import annotation_of_rows

        path = self.checkout.preferences / "data.jsonl"
        annotation = annotation_of_rows(path) if path.is_file() else None
        return annotation if annotation is not None and annotation.responses else None

    def arrives(self, name: str) -> bool:
        """Whether a file or folder, named from the root, is missing now and comes with the data, which a run fetches first."""
        state = self.data
        if state is None or state.changed or state.added or state.removed:
            return False  # then nothing is fetched
        return any(path == name or path.startswith(f"{name}/") for path in state.missing)


def stages_to_run(steps: Mapping[str, Step] | None, only: tuple[StageName, ...] = ()) -> tuple[StageName, ...]:
    """The stages whose commands may run, by DVC's plan (None: all of them) and by `--only`."""
    return tuple(
        name for name in STAGE_NAMES if (steps is None or (name in steps and steps[name].action in RUNS)) and (not only or name in only)
    )
