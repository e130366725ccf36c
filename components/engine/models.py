"""Models of a stage's tasks: opened when a batch first needs one, and one at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from components.config.settings import Settings
from components.engine import progress
from components.engine.groups import vision_language_model
from components.engine.partitions import size
from components.engine.ranks import Ranks, inference_dtype
from components.families.adapters import family_of
from components.families.loading import load_model
from components.processes import heartbeat

Model = TypeVar("Model", bound=nn.Module)
Opener = Callable[[Path, Ranks, Settings], Model]  # opens a folder's model on the rank's device


class OneModel:
    """Holds the model that was opened last: the next one takes its slot, so that two never lie in memory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: tuple[tuple[Path, Opener[Any]], nn.Module] | None = None

    def open(self, folder: Path, ranks: Ranks, opener: Opener[Model]) -> Model:
        """The model in `folder` as `opener` opens it."""
        if self._opened is None or self._opened[0] != (folder, opener):
            self._opened = None  # ahead of the next one
            with heartbeat.work(f"opening {folder.name}"):
                model = opener(folder, ranks, self._settings)
            inner = vision_language_model(model)
            progress.follow(model, None if inner is None else vars(inner).get("zero_engine"))
            self._opened = (folder, opener), model
        return self._opened[1]  # type: ignore[return-value]  # what `opener` returned for this folder

    def weights_in_path(self, *, vision_tower: bool) -> int:
        """Number of weights that a token meets in the vision-language model that is open, the vision tower's among them where it runs.

        0 without a model.
        """
        if self._opened is None:
            return 0
        model = vision_language_model(self._opened[1])
        counts = {id(parameter): size(parameter) for parameter in model.parameters()}
        if not vision_tower:
            for owner in family_of(model.config).modules(model)["tower"]:
                for parameter in owner.parameters() if isinstance(owner, nn.Module) else [owner]:
                    counts[id(parameter)] = 0
        return sum(counts.values())


def open_policy(folder: Path, ranks: Ranks, settings: Settings) -> Any:
    """The vision-language model in `folder`, on this rank's device."""
    return _open(folder, ranks, settings, inference_dtype(settings))


def open_in_fp32(folder: Path, ranks: Ranks, settings: Settings) -> Any:
    """The vision-language model in `folder` with the weights that a training under autocast holds."""
    return _open(folder, ranks, settings, torch.float32)


def _open(folder: Path, ranks: Ranks, settings: Settings, dtype: torch.dtype) -> Any:
    with ranks.opening(dtype):
        model = load_model(folder, attention=settings.model.attention, dtype=dtype)
    return ranks.move(model)
