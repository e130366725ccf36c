"""One profile of each family at true shapes: opened as stages open it, and a step of both trainings with the profile's attention.

A CPU can't show the flex kernel: it has no backward there, so the mask is read densely. In fp32, for a tight bound; tests/shapes/test_walk.py
runs the profiles' bf16.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from components.alignment import reference_stage
from components.alignment.task import AlignmentTask
from components.checkout import Checkout
from components.config.overrides import write_settings
from components.config.settings import Settings, load_settings
from components.critique.stage import write_judgements
from components.engine.models import open_policy
from components.engine.ranks import Ranks
from components.families.hub.published import table
from components.families.loading import set_attention
from components.families.processing import Preprocessor
from components.generation.generate import generate
from components.preferences.record import Medium, Query, Response, write_queries
from components.reward.model import open_reward_model
from components.reward.task import RewardTask
from components.trees import attention
from tests.checkout import ROOT
from tests.settings import shipped
from tests.shapes.photographs import save_photographs

QUERIES = [
    Query.single(
        "photograph",
        "short",
        "What is it?",
        (Response("A cup of coffee.", 1, critique="Right."), Response("Nothing at all.", 2, critique="No.")),
        Medium("rocket.jpg", "image", "rocket"),
    ),
    Query.single("text", "short", "Why?", (Response("So.", 2, critique="Short."), Response("很好 — nobody knows.", 1, critique="Hm."))),
]
MARGINS = [[("", 1.0), ("", -1.0)], [("", 0.2), ("", 0.5)]]
ON_CPU = {"training": {"ranks": 1, "threads": 1, "precision": "fp32"}, "reference": {"ranks": 1, "threads": 1}}


def profile_settings(root: Path, base: Path, changes: Mapping[str, Mapping[str, Any]]) -> Settings:
    """The shipped settings with the profile of `base` laid over it, then `changes`."""
    values = shipped()
    profile = yaml.safe_load((ROOT / f"profiles/{table()[base.name].profile}.yaml").read_text())
    for layer in (profile, changes, {"model": {"base": str(base)}}):
        for section, keys in layer.items():
            for key, value in keys.items():
                values[section][key] = values[section][key] | value if isinstance(value, dict) else value
    write_settings(root / "params.yaml", values)
    return load_settings(root / "params.yaml")


@pytest.fixture(scope="module")
def prepared(bed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Checkout]:
    """A checkout with the bed's checkpoint, two queries, reference log-probs by the stage, and margins."""
    root = tmp_path_factory.mktemp("checkout")
    settings = profile_settings(root, bed, ON_CPU)
    checkout = Checkout(root)
    save_photographs(checkout.preferences, ("rocket.jpg",))
    for split in ("train", "heldout"):
        write_queries(root / f"artifacts/validate/{split}/queries.parquet", QUERIES)
    reference_stage.run(settings, checkout)
    write_judgements(checkout.critiques("train"), QUERIES, MARGINS)
    return settings, checkout


def gradients(task: AlignmentTask | RewardTask) -> dict[str, torch.Tensor]:
    """Gradients of the first step."""
    task.model.train().zero_grad()
    for micro in task.epoch_plan(0)[0].micros[0]:
        batch = task.batch(micro)
        loss, _ = task.loss(task.model(**batch), batch)
        loss.backward()
    return {name: parameter.grad.clone() for name, parameter in task.model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("make_task", [AlignmentTask, RewardTask])
def test_profile_step_has_gradients_of_sdpa(
    prepared: tuple[Settings, Checkout], make_task: type[AlignmentTask | RewardTask], tmp_path: Path
) -> None:
    settings, checkout = prepared
    assert settings.model.attention == "flex_attention"
    task = make_task(settings, checkout)
    opened = task.model.model
    assert opened.config.text_config._attn_implementation == "flex_attention"
    assert opened.config.vision_config._attn_implementation == "sdpa"
    assert attention.attention_path(opened).flex
    by_profile = gradients(task)
    set_attention(opened, "sdpa")
    attention._paths.clear()
    expected = gradients(task)
    assert by_profile.keys() == expected.keys()
    reached = {
        part: any(part in name for name in by_profile) for part in ("language_model", "merger", "projector", "vision_tower", "blocks")
    }
    assert reached["language_model"]
    assert reached["merger"] or reached["projector"]
    assert not reached["vision_tower"]
    assert not reached["blocks"]
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        bound = 5e-5 * max(float(gradient.abs().max()), 1e-3 * scale)
        assert float((by_profile[name] - gradient).abs().max()) <= bound, name
    if isinstance(task, RewardTask):  # what the stage writes opens as the stages after it open it
        task.model.save(tmp_path, task.base)
        reopened = open_reward_model(tmp_path, Ranks(), settings)
        assert reopened.model.config.text_config._attn_implementation == "flex_attention"
        rows = reopened.model.get_input_embeddings().weight.shape[0]
        assert rows == table()[task.base.name].config.get("text_config", table()[task.base.name].config)["vocab_size"]


@torch.no_grad()
def test_policy_opened_by_profile_writes_as_sdpa(prepared: tuple[Settings, Checkout]) -> None:
    """transformers' own flex attention can't be compiled on a CPU, and would be compiled anew for each length on a GPU."""
    settings, checkout = prepared
    base = checkout.root / settings.model.base
    reader = Preprocessor(base, checkout.preferences, settings.model, settings.features)
    roots = [reader.policy_root(query) for query in QUERIES]
    written = []
    for path in ("flex_attention", "sdpa"):
        opened = open_policy(base, Ranks(), settings)
        assert opened.config.text_config._attn_implementation == "flex_attention"
        assert opened.config.vision_config._attn_implementation == "sdpa"
        set_attention(opened, path)
        limits = {"max_new_tokens": 3, "batch_size": 2}
        written.append(generate(opened, roots, [[], []], end_id=reader.end_id, **limits))  # type: ignore[arg-type]
        assert opened.config.text_config._attn_implementation == path
    assert written[0] == written[1]
