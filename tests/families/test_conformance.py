"""The contract of every family: a tree has the values of the model's own forward on each response alone, with pixels.

The other side is transformers alone: its processor and its forward. `tests/generation/test_families.py` does the same for writing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from components.config.features import FeatureSettings
from components.config.model import ModelSettings
from components.families.adapters import FAMILIES, Root
from components.families.loading import load_model, save_model
from components.families.processing import Preprocessor
from components.features.embedding import embed
from components.trees.logprobs import TreeModel, tree_hidden
from components.trees.trees import Tree, build_batch
from tests.families.checkpoints import BUILDERS
from tests.families.prompts import PROMPTS, Opened

EVERYTHING = list(PROMPTS.values())


def open_folder(folder: Path) -> Opened:
    settings = ModelSettings(base=folder, attention="sdpa", max_length=512, max_frames=8)
    return Opened(folder, load_model(folder), Preprocessor(folder, Path(), settings, FeatureSettings(pixels_max_gb=1)))


@pytest.fixture(scope="module", params=sorted(BUILDERS))
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return open_folder(BUILDERS[request.param](tmp_path_factory.mktemp(request.param)))


# Families whose roots have positions on three axes.
three_axes = pytest.mark.parametrize("opened", ["qwen2_5_vl", "qwen2_vl", "qwen3_vl"], indirect=True)


def tree_logits(opened: Opened, trees: list[Tree], row_tokens: int) -> Tensor:
    batch = build_batch(trees, row_tokens, "cpu", 0)
    hidden_NH = tree_hidden(opened.model, batch)
    order = torch.argsort(batch.branch_T, stable=True)
    logits: Tensor = opened.model.lm_head(hidden_NH[batch.predictor_T[order]])
    return logits


def test_every_family_has_a_checkpoint() -> None:
    assert set(BUILDERS) == set(FAMILIES)
    assert {name for name, family in FAMILIES.items() if family.axes == 3} == {"qwen2_5_vl", "qwen2_vl", "qwen3_vl"}


@pytest.mark.parametrize("name", PROMPTS)
@torch.no_grad()
def test_tree_reads_as_separate_forwards(opened: Opened, name: str) -> None:
    logits = tree_logits(opened, [opened.tree(PROMPTS[name])], 1)
    expected = opened.separate_logits([PROMPTS[name]])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits.log_softmax(-1), expected.log_softmax(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("row_tokens", [1, 250, 4000], ids=["a row a tree", "some packed", "all in one row"])
@torch.no_grad()
def test_packed_trees_of_all_kinds_read_as_separate_forwards(opened: Opened, row_tokens: int) -> None:
    logits = tree_logits(opened, [opened.tree(prompt) for prompt in EVERYTHING], row_tokens)
    torch.testing.assert_close(logits, opened.separate_logits(EVERYTHING), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_flex_attention_reads_trees_as_sdpa_does(opened: Opened) -> None:
    """As a stage opens the model: transformers refuses flex attention at loading for Qwen, though its layers support it."""
    model = load_model(opened.folder, attention="flex_attention")
    assert model.config.vision_config._attn_implementation == "sdpa"
    trees = [opened.tree(prompt) for prompt in EVERYTHING]
    logits = tree_logits(replace(opened, model=model), trees, 600)
    torch.testing.assert_close(logits, opened.separate_logits(EVERYTHING), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_windows_that_cover_row_change_nothing(tmp_path: Path) -> None:
    folder = BUILDERS["qwen2_vl"](tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"].update(use_sliding_window=True, sliding_window=256, max_window_layers=1)
    del config["text_config"]["layer_types"]
    (folder / "config.json").write_text(json.dumps(config))
    opened = open_folder(folder)
    assert opened.model.config.text_config.layer_types == ["full_attention", "sliding_attention"]
    prompts = [PROMPTS["image"], PROMPTS["text"]]
    logits = tree_logits(opened, [opened.tree(prompt) for prompt in prompts], 256)
    torch.testing.assert_close(logits, opened.separate_logits(prompts), atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_of_separate_forwards(opened: Opened) -> None:
    trees = [opened.tree(prompt) for prompt in EVERYTHING]
    weights_K = torch.linspace(-1, 1, sum(len(tree.branches) for tree in trees))
    sums = []
    for prompt, tree in zip(EVERYTHING, trees, strict=True):
        for branch in tree.branches:
            logits_TV = opened.branch_logits(prompt, branch)
            sums.append(logits_TV.log_softmax(-1).gather(1, torch.tensor(branch.input_ids)[:, None]).sum())
    parameters = dict(opened.model.named_parameters())
    expected = torch.autograd.grad((torch.stack(sums) * weights_K).sum(), list(parameters.values()), allow_unused=True)
    log_probs_K = TreeModel(opened.model)(build_batch(trees, 250, "cpu", 0))
    gradients = torch.autograd.grad((log_probs_K * weights_K).sum(), list(parameters.values()), allow_unused=True)
    scale = max(float(gradient.abs().max()) for gradient in expected if gradient is not None)
    for name, one, other in zip(parameters, gradients, expected, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            # Each tensor by its own scale, so that a small one that is wrong can't hide behind a large one. The floor is for those that
            # are 0 but for rounding: a softmax doesn't see the bias of its keys where there are no rotary positions.
            assert float((one - other).abs().max()) <= 5e-5 * max(float(other.abs().max()), 1e-3 * scale), name
    vision_gradients = [gradient for name, gradient in zip(parameters, gradients, strict=True) if "vision" in name or "visual" in name]
    assert any(float(gradient.abs().max()) > 0 for gradient in vision_gradients if gradient is not None), "the tower has to be reached"


def without_pixels(root: Root, outputs: list[Any]) -> Root:
    blank = [
        replace(
            medium,
            features=output,
            tensors={name: torch.zeros_like(t) if name.startswith("pixel") else t for name, t in medium.tensors.items()},
        )
        for medium, output in zip(root.media, outputs, strict=True)
    ]
    return Root(root.input_ids, tuple(blank), root.positions_AL)


@torch.no_grad()
def test_cached_features_replace_vision_tower(opened: Opened) -> None:
    family = opened.preprocessor.family
    trees = [opened.tree(prompt) for prompt in EVERYTHING]
    cached = [
        Tree(without_pixels(tree.root, [family.vision_tower(opened.model, [medium])[0] for medium in tree.root.media]), tree.branches)
        for tree in trees
    ]
    torch.testing.assert_close(tree_logits(opened, cached, 250), tree_logits(opened, trees, 250), atol=2e-6, rtol=1e-6)


@torch.no_grad()
def test_vision_and_projector_give_model_features(opened: Opened) -> None:
    """Rows for the placeholders, against the model's own feature functions; a trained projector reads the cached output."""
    family = opened.preprocessor.family
    for name in ("image", "video"):
        root = opened.root(PROMPTS[name])
        before, _ = embedded(opened.model, root)
        outputs = family.vision_tower(opened.model, root.media)
        for module in family.modules(opened.model)["projector"]:
            for parameter in [module] if isinstance(module, torch.nn.Parameter) else module.parameters():
                parameter.add_(0.01)
        after, (fresh, deeper) = family.project(opened.model, root.media, outputs), embedded(opened.model, root)
        for module in family.modules(opened.model)["projector"]:
            for parameter in [module] if isinstance(module, torch.nn.Parameter) else module.parameters():
                parameter.sub_(0.01)
        (one,) = after
        torch.testing.assert_close(one.features_LH, fresh, atol=1e-6, rtol=1e-6)
        assert len(one.features_LH) == sum(token in family.placeholder_ids(opened.model.config) for token in root.input_ids)
        assert float((one.features_LH - before).abs().max()) > 1e-4
        for level, level_fresh in zip(one.deeper, deeper, strict=True):
            torch.testing.assert_close(level, level_fresh, atol=1e-6, rtol=1e-6)


def embedded(model: Any, root: Root) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The rows that `embed` puts at a prompt's placeholders, and the rows of deeper layers."""
    embeddings, media_RL, deeper = embed(model, torch.tensor([root.input_ids]), [root])
    return embeddings[media_RL], deeper


def test_parts_are_whole_model(opened: Opened) -> None:
    named: dict[int, list[str]] = {}
    for part, modules in opened.preprocessor.family.modules(opened.model).items():
        for module in modules:
            for parameter in [module] if isinstance(module, torch.nn.Parameter) else module.parameters():
                named.setdefault(id(parameter), []).append(part)
    assert set(named) == {id(parameter) for parameter in opened.model.parameters()}
    shared = [parts for parts in named.values() if len(parts) > 1]
    assert shared == ([["language_model", "lm_head"]] if opened.model.config.tie_word_embeddings else [])


def test_dummy_reaches_vision_tower_and_projector(opened: Opened) -> None:
    family = opened.preprocessor.family
    dummies = [family.dummy(opened.model.config)]
    (projected,) = family.project(opened.model, dummies, family.vision_tower(opened.model, dummies))
    total = projected.features_LH.sum() + sum(level.sum() for level in projected.deeper)
    for part in ("tower", "projector"):
        modules = [module for module in family.modules(opened.model)[part] if not isinstance(module, torch.nn.Parameter)]
        parameters = [parameter for module in modules for parameter in module.parameters()]
        gradients = torch.autograd.grad(total, parameters, allow_unused=True, retain_graph=True)
        assert sum(gradient is not None for gradient in gradients) > len(gradients) / 2


def test_saved_model_reads_same_for_plain_transformers(opened: Opened, tmp_path: Path) -> None:
    save_model(opened.model, tmp_path, opened.folder)
    reopened = open_folder(tmp_path)
    assert reopened.root(PROMPTS["image"]).input_ids == opened.root(PROMPTS["image"]).input_ids
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path, local_files_only=True).eval()
    processor = AutoProcessor.from_pretrained(tmp_path, local_files_only=True)
    assert type(processor) is type(opened.processor)
    prompt = PROMPTS["image"]
    with torch.no_grad():
        encoded = processor(text=[opened.text(prompt)], images=[list(prompt.images)], return_tensors="pt")
        torch.testing.assert_close(plain(**encoded).logits, opened.model(**opened.encoded(prompt)).logits, atol=0, rtol=0)
        torch.testing.assert_close(
            tree_logits(reopened, [reopened.tree(prompt)], 1), tree_logits(opened, [opened.tree(prompt)], 1), atol=0, rtol=0
        )


@three_axes
@torch.no_grad()
def test_restarted_positions_change_log_probs(opened: Opened) -> None:
    """Plain positions in a root, as in a family without axes, must change the result; else equality proves nothing."""
    tree = opened.tree(PROMPTS["wide image"])
    right = tree_logits(opened, [tree], 1)
    wrong = tree_logits(opened, [Tree(Root(tree.root.input_ids, tree.root.media), tree.branches)], 1)
    assert float((right - wrong).abs().max()) > 1e-3


@three_axes
def test_root_positions_are_models_own(opened: Opened) -> None:
    assert opened.preprocessor.family.axes == 3
    for prompt in EVERYTHING:
        encoded, root = opened.encoded(prompt), opened.root(prompt)
        if root.media:
            names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts")
            expected, delta = opened.model.model.get_rope_index(**{name: encoded[name] for name in names if name in encoded})
            assert root.positions_AL is not None
            assert torch.equal(root.positions_AL, expected[:, 0])
            assert root.next_position == len(root.input_ids) + int(delta)
