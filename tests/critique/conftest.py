"""One random writer of critiques and one preprocessor for all tests of the folder that change neither."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.reward.model import RewardModel, new_reward_model
from tests.tiny import preprocessor

LETTERS = 94  # the tiny tokenizer's first tokens are the printable characters of ASCII


@pytest.fixture(scope="package")
def writer(tiny_base: Path) -> RewardModel:
    """A random reward model that writes mostly letters: a tied head says its last token without end."""
    model = load_model(tiny_base)
    weight_VH = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(1))
    weight_VH[LETTERS:] *= 0.85
    model.lm_head.weight = torch.nn.Parameter(weight_VH)
    return new_reward_model(model, seed=0).eval()


@pytest.fixture(scope="package")
def tiny_preprocessor(tiny_base: Path, tiny_media: Path) -> Preprocessor:
    return preprocessor(tiny_base, tiny_media)
