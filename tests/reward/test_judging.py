from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.generation.critiques import write_critiques
from components.reward import judging
from components.reward.judging import write_and_score
from components.reward.model import RewardModel, new_reward_model
from components.reward.scoring import Judged, score
from tests.tiny import preprocessor, queries

LETTERS = 94  # the tiny tokenizer's first tokens are the printable characters of ASCII
ARGUMENTS: dict[str, Any] = {"instruction": "Judge.", "max_new_tokens": 6, "batch_size": 7}


@pytest.fixture
def reward(tiny_base: Path) -> RewardModel:
    """A random reward model that writes mostly letters: a tied head says its last token again and again, a random one bytes of no text."""
    model = load_model(tiny_base)
    torch.manual_seed(1)
    weight_VH = torch.randn_like(model.lm_head.weight)
    weight_VH[LETTERS:] *= 0.85
    model.lm_head.weight = torch.nn.Parameter(weight_VH)
    return new_reward_model(model, seed=0).eval()


@pytest.fixture
def prepared(tiny_base: Path, tiny_media: Path) -> Preprocessor:
    return preprocessor(tiny_base, tiny_media)


@pytest.mark.parametrize("blank", [False, True])
def test_scores_read_while_writing_equal_those_of_a_second_pass(
    reward: RewardModel, prepared: Preprocessor, blank: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [(query, response.text) for query in queries() for response in query.responses]
    texts = write_critiques(reward.model, prepared, items, **ARGUMENTS, blank=blank)
    expected = score(
        reward, prepared, [Judged(*item, text) for item, text in zip(items, texts, strict=True)], instruction="Judge.", blank=blank
    )
    scored: list[int] = []

    def counting(*arguments: Any, **named: Any) -> list[float]:
        scored.append(len(arguments[2]))
        return score(*arguments, **named)

    monkeypatch.setattr(judging, "score", counting)
    judgements = write_and_score(reward, prepared, items, **ARGUMENTS, blank=blank)
    assert [text for text, _ in judgements] == texts
    assert [value for _, value in judgements] == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 3) for value in expected}) > 5
    # Bytes that are no text are written otherwise than they are read: those critiques are scored on their text.
    assert 0 < sum(scored) < len(items)
