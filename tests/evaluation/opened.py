"""A checkout, a reader and open models of the tiny checkpoint, for tests of the tasks of evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from components.config.settings import Settings
from components.engine.inference_task import Work
from components.engine.models import open_policy
from components.engine.ranks import Ranks
from components.families.processing import Preprocessor
from components.reward.model import RewardModel, new_reward_model, open_reward_model
from tests.tiny import preprocessor, save_checkout, save_checkpoint, varied_model

INSTRUCTION = "Judge the answer."
RANK = Ranks()


class Memory:
    """A store in memory."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def find(self, keys: Iterable[str]) -> dict[str, Any]:
        return {key: self.values[key] for key in keys if key in self.values}

    def store(self, values: Mapping[str, Any]) -> None:
        self.values.update(values)


class Opened:
    """Models that are open already."""

    def __init__(self, reward: RewardModel) -> None:
        self.opened = reward
        self.requests: list[tuple[Path, Ranks]] = []

    def open(self, folder: Path, ranks: Ranks, opener: Any) -> Any:
        self.requests.append((folder, ranks))
        return {open_policy: self.opened.model, open_reward_model: self.opened}[opener]

    def operations(self, work: Work) -> float:
        return 100.0 * work.tokens


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_media: Path) -> tuple[Path, Settings]:
    root = tmp_path_factory.mktemp("tasks")
    evaluate, critique = {"max_new_tokens": 7, "batch_size": 2, "threads": 1}, {"max_new_tokens": 5, "batch_size": 3, "threads": 1}
    settings = save_checkout(
        root, tiny_base, tiny_media, evaluate=evaluate, critique=critique, features={"cache": False}, reward={"instruction": INSTRUCTION}
    )
    save_checkpoint(root / "artifacts/align/model", seed=1)
    return root, settings


@pytest.fixture(scope="module")
def reader(tiny_base: Path, tiny_media: Path) -> Preprocessor:
    return preprocessor(tiny_base, tiny_media)


@pytest.fixture(scope="module")
def models(tiny_base: Path) -> Opened:
    return Opened(new_reward_model(varied_model(tiny_base), seed=0).eval())
