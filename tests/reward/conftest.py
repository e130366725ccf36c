"""One random reward model and one preprocessor for all tests of the folder that change neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.reward.model import RewardModel, new_reward_model
from tests.tiny import preprocessor


@pytest.fixture(scope="package")
def random_reward(tiny_base: Path) -> RewardModel:
    return new_reward_model(load_model(tiny_base), seed=0).eval()


@pytest.fixture(scope="package")
def prepared(tiny_base: Path, tiny_media: Path) -> Preprocessor:
    return preprocessor(tiny_base, tiny_media)
