"""How much of the machine the stages of a run may use at once: CPU threads, and GPUs for stages that ask for whole ones."""

from __future__ import annotations

import os
from pathlib import Path

from components.config import STAGES, Settings, StageName
from components.errors import UserError


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


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by the name that CUDA_VISIBLE_DEVICES takes."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return sorted((path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")), key=int)


class Slots:
    """Free threads and GPUs of one run. A stage that wants more threads than there are gets the whole machine, alone."""

    def __init__(self, settings: Settings, cores: int | None = None, gpus: list[str] | None = None) -> None:
        self._threads = threads_of(settings)
        self._gpus_wanted = {stage: settings.stages[stage].gpus for stage in STAGES}
        self._cores = cores or len(os.sched_getaffinity(0))
        self._free_gpus = visible_gpus() if gpus is None else list(gpus)
        self._held: dict[StageName, tuple[int, list[str]]] = {}
        for stage, wanted in self._gpus_wanted.items():
            if wanted > len(self._free_gpus):
                raise UserError(
                    f"stages.{stage}.gpus is {wanted}, but there are {len(self._free_gpus)} GPUs: lower it, or use another machine"
                )

    def take(self, stage: StageName) -> dict[str, str] | None:
        """Take what `stage` needs: the environment that tells it which GPUs are its own, or None while there is too little."""
        threads = min(self._threads[stage], self._cores)
        busy = sum(held for held, _ in self._held.values())
        wanted = self._gpus_wanted[stage]
        if busy + threads > self._cores or wanted > len(self._free_gpus):
            return None
        gpus, self._free_gpus = self._free_gpus[:wanted], self._free_gpus[wanted:]
        self._held[stage] = (threads, gpus)
        return {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}

    def give_back(self, stage: StageName) -> None:
        """Free what `stage` held."""
        _, gpus = self._held.pop(stage)
        self._free_gpus = sorted([*self._free_gpus, *gpus])
