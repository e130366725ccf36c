"""The reward model's training on two ranks: weights spread by ZeRO-3 while one rank writes critiques and the other has none to write."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from components.checkout import Checkout
from components.engine.launch import launch
from components.families.digests import HEAD_FILE
from components.preferences.record import write_queries
from components.reward.model import load_reward_model
from components.reward.recorded_source import critique_source_of
from components.stages import TRAINING
from tests.engine.conftest import spread_small_weights
from tests.tiny import queries, save_checkout

BOUND = 2e-6  # largest difference of a weight after 2 steps in fp32; weights are of order 0.05
# The same where one rank and two add in another order: AdamW makes a share of a step (1e-3) of the rounding of gradients near 0.
BOUND_OF_ORDER = 5e-5


@pytest.mark.slow
def test_reward_model_in_bf16_trains_under_zero_3(tmp_path: Path, tiny_base: Path, tiny_media: Path) -> None:
    training = {"zero_stage": 3, "precision": "bf16", "row_tokens": 400}
    settings = save_checkout(tmp_path, tiny_base, tiny_media, training=training, reward={"critique_source": "annotated"})
    spread_small_weights(tmp_path)
    outcome = launch(TRAINING["reward"], settings, "reward", Checkout(tmp_path), "key", tmp_path / "artifacts/reward/model")
    losses = [json.loads(line)["loss"] for line in outcome.curves.read_text().splitlines()]
    assert losses[-1] < losses[0]
    load_reward_model(tmp_path / "artifacts/reward/model")


@pytest.mark.slow
def test_spread_weights_give_the_same_critiques_and_model(tmp_path: Path, tiny_base: Path, tiny_media: Path) -> None:
    models, critiques = {}, {}
    for stage in (2, 3):
        root = tmp_path / f"zero-{stage}"
        root.mkdir()
        settings = save_checkout(
            root,
            tiny_base,
            tiny_media,
            training={"zero_stage": stage, "row_tokens": 400},
            reward={"own_share": 1.0},
            critique={"max_new_tokens": 5},
        )
        spread_small_weights(root)
        out = root / "artifacts/reward/model"
        launch(TRAINING["reward"], settings, "reward", Checkout(root), "key", out)
        (written,) = root.glob(".mmalign/scratch/reward/*/critiques/epoch-1.json")
        critiques[stage] = json.loads(written.read_text())
        models[stage] = load_file(out / "model.safetensors") | load_file(out / HEAD_FILE)
        load_reward_model(out)
    assert critiques[2] == critiques[3]
    assert any(text for texts in critiques[2].values() for text in texts)
    assert models[2].keys() == models[3].keys()
    # Scores are compared with each other, so the last bias has no gradient but rounding, which AdamW makes a step of.
    names = models[2].keys() - {"out.bias"}
    assert max(float((models[2][name] - models[3][name]).abs().max()) for name in names) < BOUND


@pytest.mark.slow
def test_model_without_critiques_is_one_on_ranks_and_engines(tmp_path: Path, tiny_base: Path, tiny_media: Path) -> None:
    models, losses = {}, {}
    kinds: dict[str, dict[str, Any]] = {
        "one": {"engine": "ddp", "ranks": 1},
        "ddp": {"engine": "ddp", "ranks": 2},
        "zero-3": {"engine": "deepspeed", "zero_stage": 3, "ranks": 2},
    }
    for name, training in kinds.items():
        root = tmp_path / name
        root.mkdir()
        settings = save_checkout(root, tiny_base, tiny_media, training=training | {"row_tokens": 400})
        rows = [replace(query, responses=tuple(replace(r, critique=None) for r in query.responses)) for query in queries()]
        write_queries(Checkout(root).queries("train"), rows)
        spread_small_weights(root)
        out = root / "artifacts/reward/model"
        outcome = launch(TRAINING["reward"], settings, "reward", Checkout(root), "key", out)
        curves = [json.loads(line) for line in outcome.curves.read_text().splitlines()]
        losses[name] = [step["loss"] for step in curves]
        assert not any("loss/critique" in step for step in curves)
        assert critique_source_of(out) == "none"
        models[name] = load_file(out / "model.safetensors") | load_file(out / HEAD_FILE)
    for name in ("ddp", "zero-3"):
        assert losses[name] == pytest.approx(losses["one"], rel=1e-4)
        names = models["one"].keys() - {"out.bias"}
        assert max(float((models["one"][key] - models[name][key]).abs().max()) for key in names) < BOUND_OF_ORDER
