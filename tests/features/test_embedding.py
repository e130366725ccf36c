"""Calls of vision tower and projector for other ranks' sake: they run, and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components.families.adapters import family_of
from components.families.loading import load_model
from components.features import embedding as features
from components.features.embedding import embed
from tests.tiny import preprocessor, queries

IMAGE, TEXT = queries()[0], queries()[2]


@pytest.fixture
def partitioned(tiny_base: Path) -> Any:
    """A model whose parameters carry ZeRO-3's mark of partitioned ones."""
    model = load_model(tiny_base)
    for number, parameter in enumerate(model.parameters()):
        parameter.ds_id = number
    return model


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, partitioned: Any) -> list[str]:
    """Names of the parts that were called, in order."""
    made: list[str] = []
    for module, name in ((partitioned.model.vision_tower, "tower"), (partitioned.model.multi_modal_projector, "projector")):
        module.register_forward_hook(lambda *_, name=name: made.append(name))
    monkeypatch.setattr(features, "_IDLE", type(features._IDLE)())
    return made


def others(monkeypatch: pytest.MonkeyPatch, *most: int) -> None:
    """Let another rank need so many calls of the tower and of the projector, batch after batch."""
    wanted = iter(most)
    monkeypatch.setattr(features, "_most", lambda count: max(count, next(wanted)))


def ids(root: Any) -> torch.Tensor:
    return torch.tensor([list(root.input_ids)])


def test_text_only_batch_runs_projector_with_zero_weight(tiny_base: Path, tiny_media: Path, partitioned: Any, calls: list[str]) -> None:
    root = preprocessor(tiny_base, tiny_media).policy_root(TEXT)
    partitioned.model.vision_tower.requires_grad_(False)
    embeddings, media_RL, deeper = embed(partitioned, ids(root), [root])
    assert calls == ["tower", "projector"]  # the tower's once a process, for the features of the smallest medium
    assert torch.equal(embeddings, load_model(tiny_base).get_input_embeddings()(ids(root)))
    assert not media_RL.any()
    assert deeper == []
    weight = torch.randn(embeddings.shape)
    owners = family_of(partitioned.config).modules(partitioned)["projector"]
    parameters = [p for owner in owners for p in ([owner] if isinstance(owner, torch.nn.Parameter) else owner.parameters())]
    assert all(not gradient.any() for gradient in torch.autograd.grad((embeddings * weight).sum(), parameters))
    embed(partitioned, ids(root), [root])
    assert calls[2:] == ["projector"]


def test_rank_with_cached_features_follows_live_rank(
    monkeypatch: pytest.MonkeyPatch, tiny_base: Path, tiny_media: Path, partitioned: Any, calls: list[str]
) -> None:
    root = preprocessor(tiny_base, tiny_media).policy_root(TEXT)
    others(monkeypatch, 2, 3)
    embeddings, _, _ = embed(partitioned, ids(root), [root])
    assert calls[1:] == ["tower", "tower", "projector", "projector", "projector"]
    gradients = torch.autograd.grad(embeddings.sum(), list(partitioned.model.vision_tower.parameters()), allow_unused=True)
    assert any(gradient is not None for gradient in gradients)  # a trained tower is reached in backward too
    assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_idle_calls_leave_media_features_unchanged(
    monkeypatch: pytest.MonkeyPatch, tiny_base: Path, tiny_media: Path, partitioned: Any, calls: list[str]
) -> None:
    root = preprocessor(tiny_base, tiny_media).policy_root(IMAGE)
    expected, _, _ = embed(load_model(tiny_base), ids(root), [root])
    first, _, _ = embed(partitioned, ids(root), [root])
    assert calls[1:] == ["tower", "projector"]
    others(monkeypatch, 4, 2)
    followed, _, _ = embed(partitioned, ids(root), [root])
    assert calls[3:] == ["tower"] * 4 + ["projector"] * 2
    assert torch.equal(first, expected)
    assert torch.equal(followed, expected)


def test_without_partitioned_weights_text_runs_nothing_else(tiny_base: Path, tiny_media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(tiny_base)
    monkeypatch.setattr(features, "_most", lambda *_: pytest.fail("other ranks were asked"))
    for part in (model.model.vision_tower, model.model.multi_modal_projector):
        part.register_forward_hook(lambda *_: pytest.fail("it ran"))
    root = preprocessor(tiny_base, tiny_media).policy_root(TEXT)
    embed(model, ids(root), [root])
