"""Opening a checkpoint for training: frozen parts, dtypes, and recomputed activations without a change of values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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


class Products(TorchDispatchMode):
    """Counts the matrix products that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.count += function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return function(*arguments, **(named or {}))


# A layer has seven products; the last one, down, feeds nothing that backward reads. The frozen tower is not walked backward.
@pytest.mark.parametrize(("recomputation", "norms", "products"), [("none", 1, 0), ("selective", 2, 0), ("all", 2, 6)])
def test_recomputation_preserves_log_probs_and_gradients(
    tiny_base: Path, tiny_media: Path, recomputation: str, norms: int, products: int
) -> None:
    batch = a_batch(tiny_base, tiny_media)

    def run(recomputation: str) -> tuple[Any, list[Any], int, int, int]:
        model = opened(tiny_base, gradient_checkpointing=recomputation).train()
        calls: list[int] = []
        model.model.language_model.layers[0].input_layernorm.register_forward_hook(lambda *_: calls.append(1))
        sums = TreeModel(model)(batch)
        with Products() as counted:
            sums.square().mean().backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        return sums.detach(), gradients, len(calls), counted.count, len(model.model.language_model.layers)

    sums, gradients, calls, count, layers = run(recomputation)
    plain_sums, plain_gradients, _, plain_count, _ = run("none")
    assert calls == norms
    assert count - plain_count == products * layers
    assert torch.equal(sums, plain_sums)
    assert all(torch.equal(one, other) for one, other in zip(gradients, plain_gradients, strict=True))
