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
from components.engine.inference_task import Work
from components.engine.operations import operations_of
from components.engine.ranks import Ranks, inference_dtype
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

    def operations(self, work: Work) -> int:
        """Floating-point operations of passes of the language model that is open; 0 without a model."""
        return 0 if self._opened is None else operations_of(self._opened[1]).forward(work.tokens, work.targets, work.pairs)


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
