"""Models of a stage's tasks: opened when a batch first needs one, and one at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from components.config.settings import Settings
from components.engine.ranks import Ranks, inference_dtype
from components.families.adapters import family_of
from components.families.loading import load_model
from components.reward.model import RewardModel, load_reward_model


class OneModel:
    """Holds the model that was asked for last: another one takes its place, so that two never lie in memory."""

    def __init__(self, settings: Settings) -> None:
        self._attention = settings.model.attention
        self._dtype = inference_dtype(settings)
        self._held: tuple[Path, Any] | None = None

    def policy(self, folder: Path, ranks: Ranks) -> Any:
        """The vision-language model in `folder`, on this rank's device."""
        if self._held is None or self._held[0] != folder:
            self._held = None
            with ranks.opening(self._dtype):
                model = load_model(folder, attention=self._attention, dtype=self._dtype)
            self._held = folder, ranks.place(model)
        return self._held[1]

    def reward(self, folder: Path, ranks: Ranks) -> RewardModel:
        """The reward model in `folder`, on this rank's device. Its score head is whole on every rank."""
        if self._held is None or self._held[0] != folder:
            self._held = None
            with ranks.opening(self._dtype):
                reward = load_reward_model(folder, self._attention)
            if not ranks.lockstep:
                reward.model.to(self._dtype)
            ranks.place(reward.model)
            reward.head.to(ranks.device)
            # Scores are fp32 whatever the model runs in: in bf16 most margins would round to a few values.
            reward.head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
            self._held = folder, reward
        found: RewardModel = self._held[1]
        return found

    def weights_in_path(self, *, tower: bool) -> int:
        """Number of weights that a token meets in the model that is held, the tower's among them where it runs; 0 without a model."""
        if self._held is None:
            return 0
        model = self._held[1].model if isinstance(self._held[1], RewardModel) else self._held[1]
        counts = {id(parameter): _elements(parameter) for parameter in model.parameters()}
        if not tower:
            for owner in family_of(model.config).modules(model)["tower"]:
                for parameter in owner.parameters() if isinstance(owner, torch.nn.Module) else [owner]:
                    counts[id(parameter)] = 0
        return sum(counts.values())


def _elements(parameter: torch.Tensor) -> int:
    """Elements of a parameter; DeepSpeed leaves an empty one where it has partitioned it, and notes the number."""
    return int(vars(parameter).get("ds_numel", parameter.numel()))
