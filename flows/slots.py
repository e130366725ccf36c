"""How much of the machine the stages of a run may use at once: CPU threads and visible GPUs.

A stage chooses its GPUs when it starts (components/processes/slots), since other checkouts use the same machine.
"""

from __future__ import annotations

import os

from components.config.settings import Settings
from components.processes.slots.gpus import visible_gpus
from components.stages import STAGE_NAMES, StageName


def threads_of(settings: Settings) -> dict[StageName, int]:
    """CPU threads that each stage computes with."""
    training = settings.training.ranks * settings.training.threads
    return {
        "validate": 1,
        "reward": training,
        "critique": settings.critique.ranks * settings.critique.threads,
        "reference": settings.reference.ranks * settings.reference.threads,
        "align": training,
        "evaluate": settings.evaluate.ranks * settings.evaluate.threads,
    }


class Slots:
    """Free threads and GPUs of one run. A stage that wants more than the machine has gets the whole machine.

    Whether there are GPUs enough for the stages that will run is a precondition of the run (components/operations/preconditions), and each
    stage asks once more when it takes them.
    """

    def __init__(self, settings: Settings, cores: int | None = None, gpus: int | None = None) -> None:
        self._threads = threads_of(settings)
        self._gpus_wanted = {stage: settings.stages[stage].gpus for stage in STAGE_NAMES}
        self._cores = cores or len(os.sched_getaffinity(0))
        if gpus is None:
            gpus = len(visible_gpus()) if any(self._gpus_wanted.values()) else 0
        self._gpus = self._free_gpus = gpus
        self._taken: dict[StageName, tuple[int, int]] = {}

    def take(self, stage: StageName) -> bool:
        """Take the threads and GPUs of `stage`; False while too few are free."""
        threads = min(self._threads[stage], self._cores)
        busy = sum(taken for taken, _ in self._taken.values())
        wanted = min(self._gpus_wanted[stage], self._gpus)
        if busy + threads > self._cores or wanted > self._free_gpus:
            return False
        self._free_gpus -= wanted
        self._taken[stage] = (threads, wanted)
        return True

    def give_back(self, stage: StageName) -> None:
        """Free the threads and GPUs of `stage`."""
        _, gpus = self._taken.pop(stage)
        self._free_gpus += gpus
