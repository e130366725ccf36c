"""Adapters: the weights that they leave unchanged, and equal models whether merged, in a folder or reopened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from components.config.settings import load_settings
from components.errors import UserError
from components.families import lora
from components.families.loading import load_model, load_trainable, save_trained
from components.families.processing import Preprocessor
from components.files import digest_folder
from components.trees.logprobs import TreeModel
from components.trees.scoring import policy_tree
from components.trees.trees import TreeBatch, build_batch
from tests.tiny import preprocessor, queries, save_checkpoint

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = load_settings(ROOT / "params.yaml")


def opened(base: Path, *, parts: dict[str, float] | None = None, **lora: Any) -> Any:
    model = SETTINGS.model.model_copy(update={"lora": SETTINGS.model.lora.model_copy(update={"rank": 4} | lora)})
    rates = SETTINGS.training.parts.model_copy(update=parts or {})
    return load_trainable(base, model, SETTINGS.training.model_copy(update={"parts": rates}))


def shaken(model: Any) -> Any:
    """The model after some training: every trained weight has moved."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def a_batch(base: Path, media: Path) -> TreeBatch:
    reader: Preprocessor = preprocessor(base, media)
    return build_batch([policy_tree(reader, query) for query in queries()], 300, "cpu", reader.end_id)


@torch.no_grad()
def log_probs(model: Any, batch: TreeBatch) -> torch.Tensor:
    sums: torch.Tensor = TreeModel(model.eval())(batch)
    return sums


def test_fresh_adapters_equal_reference_bit_for_bit(tiny_base: Path, tiny_media: Path) -> None:
    batch = a_batch(tiny_base, tiny_media)
    reference = log_probs(load_model(tiny_base), batch)
    model = opened(tiny_base)
    assert torch.equal(log_probs(model, batch), reference)
    shaken(model)
    for parameter in model.model.multi_modal_projector.parameters():
        parameter.data.copy_(load_model(tiny_base).get_parameter(next(n for n, p in model.named_parameters() if p is parameter)))
    model.model.image_newline.data.copy_(load_model(tiny_base).model.image_newline)
    assert not torch.equal(log_probs(model, batch), reference)


def test_only_adapters_and_projector_are_trained(tiny_base: Path) -> None:
    trained = {name for name, parameter in opened(tiny_base).named_parameters() if parameter.requires_grad}
    assert all(".lora_" in name or "multi_modal_projector" in name or "image_newline" in name for name in trained)
    adapted = {name.split(".lora_")[0] for name in trained if ".lora_" in name}
    assert len(adapted) == 2 * 7  # layers, and their linear modules
    assert all("language_model" in name for name in adapted)
    attention = {n.split(".lora_")[0] for n, p in opened(tiny_base, targets="attention").named_parameters() if ".lora_" in n}
    assert {name.split(".")[-1] for name in attention} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    without = opened(tiny_base, parts={"projector": 0.0})
    assert all(".lora_" in name for name, parameter in without.named_parameters() if parameter.requires_grad)


def test_adapters_are_drawn_from_seed_alone(tiny_base: Path) -> None:
    torch.manual_seed(1)
    one = opened(tiny_base).state_dict()
    torch.manual_seed(2)
    after = torch.rand(1)
    torch.manual_seed(2)
    other = opened(tiny_base).state_dict()
    assert torch.equal(torch.rand(1), after)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(".lora_A" in name and bool(value.any()) for name, value in one.items())


def test_merged_model_in_transformers_has_adapted_log_probs(tiny_base: Path, tiny_media: Path, tmp_path: Path) -> None:
    model, batch = shaken(opened(tiny_base)), a_batch(tiny_base, tiny_media)
    save_trained(model, tmp_path / "one", tiny_base)
    save_trained(model, tmp_path / "two", tiny_base)
    assert digest_folder(tmp_path / "one") == digest_folder(tmp_path / "two")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "one", attn_implementation="sdpa")
    torch.testing.assert_close(log_probs(plain, batch), log_probs(model, batch), rtol=1e-5, atol=1e-4)


def test_adapter_folder_equals_merged_model_and_peft(tiny_base: Path, tiny_media: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    model = shaken(opened(tiny_base, parts={"projector": 0.0}, merge=False))
    (tmp_path / "one").mkdir()
    save_trained(model, tmp_path / "one", tiny_base)
    reopened = {name: value.clone() for name, value in load_model(tmp_path / "one").state_dict().items()}
    merged = shaken(opened(tiny_base, parts={"projector": 0.0}))
    save_trained(merged, tmp_path / "merged", tiny_base)
    expected = load_model(tmp_path / "merged").state_dict()
    assert reopened.keys() == expected.keys()
    assert all(torch.equal(reopened[name], expected[name]) for name in expected)
    batch = a_batch(tiny_base, tiny_media)
    by_peft = PeftModel.from_pretrained(load_model(tiny_base), str(tmp_path / "one"))
    torch.testing.assert_close(log_probs(by_peft.base_model.model, batch), log_probs(model, batch), rtol=1e-6, atol=1e-5)


def test_adapter_folder_carries_trained_projector(tiny_base: Path, tmp_path: Path) -> None:
    model = shaken(opened(tiny_base, merge=False))
    save_trained_in(model, tmp_path / "one", tiny_base)
    save_trained_in(model, tmp_path / "two", tiny_base)
    assert digest_folder(tmp_path / "one") == digest_folder(tmp_path / "two")
    reopened = load_model(tmp_path / "one")
    assert torch.equal(reopened.model.image_newline, model.model.image_newline)
    assert Preprocessor(tmp_path / "one", tmp_path, SETTINGS.model, SETTINGS.features).end_id is not None


def save_trained_in(model: Any, folder: Path, base: Path) -> None:
    folder.mkdir()
    save_trained(model, folder, base)


def test_another_base_is_refused(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base")
    save_trained_in(opened(base, merge=False), tmp_path / "adapters", base)
    load_model(tmp_path / "adapters")
    save_checkpoint(base, seed=1)
    with pytest.raises(UserError, match="trained on another model"):
        load_model(tmp_path / "adapters")
    base.rename(tmp_path / "gone")
    with pytest.raises(UserError, match="which is missing"):
        load_model(tmp_path / "adapters")


@pytest.mark.parametrize(("parts", "message"), [({"tower": 1.0}, "not the tower"), ({"language_model": 0.0}, "language_model is 0")])
def test_rates_unusable_with_adapters_are_refused(tiny_base: Path, parts: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened(tiny_base, parts=parts)


@pytest.mark.parametrize(("rank", "alpha"), [(0, 1), (10**400, 1), (8, 10**400), (8, float("nan")), ("8", 1)])
def test_adapters_with_absurd_numbers_are_refused(tmp_path: Path, rank: Any, alpha: Any) -> None:
    with pytest.raises(UserError, match="train the adapters again"):
        lora._scale({"r": rank, "lora_alpha": alpha}, tmp_path)
