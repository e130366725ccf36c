"""Opening a checkpoint for training: frozen parts, dtypes, and recomputed activations without a change of values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components.config.settings import load_settings
from components.errors import UserError
from components.families.loading import load_trainable
from components.trees.logprobs import TreeModel
from tests.families.test_lora import ROOT, a_batch

SETTINGS = load_settings(ROOT / "params.yaml")


def opened(base: Path, parts: dict[str, float] | None = None, **training: Any) -> Any:
    rates = SETTINGS.training.parts.model_copy(update=parts or {})
    return load_trainable(base, SETTINGS.model, SETTINGS.training.model_copy(update={"parts": rates} | training))


def test_part_with_rate_0_is_frozen(tiny_base: Path) -> None:
    model = opened(tiny_base, {"projector": 0.0, "tower": 0.5})
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if "multi_modal_projector" in name or "image_newline" in name}


def test_tied_head_has_language_models_rate(tiny_base: Path) -> None:
    with pytest.raises(UserError, match=r"language_model the rate 1\.0 and lm_head 0\.5, but this model ties their weights"):
        opened(tiny_base, {"lm_head": 0.5})


def test_nothing_to_train_is_refused(tiny_base: Path) -> None:
    with pytest.raises(UserError, match="every part's rate to 0"):
        opened(tiny_base, dict.fromkeys(("tower", "projector", "language_model", "lm_head"), 0.0))


def test_weights_dtype_is_bf16_in_deepspeed_and_fp32_in_ddp(tiny_base: Path) -> None:
    assert opened(tiny_base, precision="bf16").dtype == torch.bfloat16
    assert opened(tiny_base, precision="bf16", engine="ddp").dtype == torch.float32


def test_recomputation_preserves_log_probs_and_gradients(tiny_base: Path, tiny_media: Path) -> None:
    batch = a_batch(tiny_base, tiny_media)
    results = []
    for checkpointing in (False, True):
        model = opened(tiny_base, gradient_checkpointing=checkpointing).train()
        calls = []
        layer = model.model.language_model.layers[0].input_layernorm
        layer.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        sums = TreeModel(model)(batch)
        sums.square().mean().backward()
        assert len(calls) == (2 if checkpointing else 1)
        results.append((sums.detach(), [p.grad for p in model.parameters() if p.grad is not None]))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))
