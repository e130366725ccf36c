from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.errors import UserError
from components.families.loading import load_model
from components.reward.model import load_reward_model, new_reward_model
from components.reward.scoring import Judged, score
from tests.tiny import pixels, preprocessor, queries


def test_score_is_read_at_the_last_token_of_the_critique(tiny_base: Path, tiny_media: Path) -> None:
    reward = new_reward_model(load_model(tiny_base), seed=0).eval()
    prepared = preprocessor(tiny_base, tiny_media)
    items = [Judged(query, r.text, f"Critique {n}.") for query in queries() for n, r in enumerate(query.responses)]
    scores = score(reward, prepared, items, instruction="Judge.")
    for item, value in zip(items, scores, strict=True):
        root = prepared.judge_root(item.query, "Judge.")
        tokens = [*root.input_ids, *prepared.judge_ids(item.response), *prepared.critique_ids(item.critique)]
        with torch.no_grad():
            hidden = reward.model.model(input_ids=torch.tensor([tokens]), **pixels(root)).last_hidden_state[0, -1:]
            assert value == pytest.approx(reward.head(hidden).item(), abs=1e-5)


def test_a_saved_reward_model_scores_the_same_and_a_base_is_none(tmp_path: Path, tiny_base: Path, tiny_media: Path) -> None:
    reward = new_reward_model(load_model(tiny_base), seed=3).eval()
    reward.save(tmp_path / "model", tiny_base)
    items = [Judged(queries()[0], "Yes.", "Right.")]
    prepared = preprocessor(tmp_path / "model", tiny_media)
    assert score(load_reward_model(tmp_path / "model"), prepared, items, instruction="J") == score(reward, prepared, items, instruction="J")
    with pytest.raises(UserError, match="not a reward model"):
        load_reward_model(tiny_base)


def test_a_blanked_image_changes_the_score(tiny_base: Path, tiny_media: Path) -> None:
    reward, prepared = new_reward_model(load_model(tiny_base), seed=0), preprocessor(tiny_base, tiny_media)
    items = [Judged(queries()[0], "Yes.", "Right.")]
    assert score(reward, prepared, items, instruction="J") != score(reward, prepared, items, instruction="J", blank=True)
