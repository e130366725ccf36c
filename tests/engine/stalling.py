"""The toy task with a rank that stops, calls one module less, or works for long without a word; and where it found itself."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch
from torch import Tensor

from components.checkout import Checkout
from components.config.settings import Settings
from components.engine import loop
from components.engine.task import TrainingRank
from components.processes import heartbeat
from tests.engine.toy import Net, ToyTask, slow_commits

STALLED_STEP = 4  # in which it happens, on rank 1


class LeavingOut(Net):
    """Calls `unused` in every step, but for one rank in one step."""

    leaves_out = False

    def forward(self, x: Tensor, y: Tensor, total: float) -> dict[str, Tensor]:
        prediction = super().forward(x, y, total)["prediction"]
        return {"prediction": prediction if self.leaves_out else prediction + 0 * self.unused(torch.ones_like(x[:, :3])).sum()}


class StallingTask(ToyTask):
    """Does on rank 1 in STALLED_STEP what `toy.json` says: `stop`, `skip`, or `work` (announced) for some seconds."""

    def __init__(self, settings: Settings, checkout: Checkout) -> None:
        super().__init__(settings, checkout.root)
        torch.manual_seed(5)
        self.model = LeavingOut()
        self.root = checkout.root
        self.taken = 0

    def batch(self, micro: list[int]) -> dict[str, Any]:
        own = heartbeat.own()
        assert own is not None
        happens = os.environ["RANK"] == "1" and own._step == STALLED_STEP
        if happens:
            (self.root / "since").write_text(repr(time.time()))
        if happens and self.options.get("stop"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if happens and "work" in self.options:
            with heartbeat.work("a long file"):
                time.sleep(self.options["work"])
        assert isinstance(self.model, LeavingOut)
        self.model.leaves_out = bool(happens and self.options.get("skip"))
        return super().batch(micro)


def train(rank: TrainingRank) -> None:
    def make(settings: Settings, checkout: Checkout) -> StallingTask:
        task = StallingTask(settings, checkout)
        if "commit_seconds" in task.options:
            slow_commits(float(task.options["commit_seconds"]))
        return task

    loop.train(make, rank)
