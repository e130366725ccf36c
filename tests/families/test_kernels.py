"""Which modules liger's kernels replace. They run on GPUs only: tests/gpu compares their values, here stand-ins count their calls."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.errors import UserError
from components.families.kernels import use_liger
from components.families.loading import load_model
from components.trees.logprobs import TreeModel
from tests.families.checkpoints import BUILDERS
from tests.families.test_lora import a_batch


class Norm:
    calls = 0

    def forward(self: Any, hidden: Tensor) -> Tensor:
        Norm.calls += 1
        assert (self.offset, self.casting_mode, self.in_place, self.row_mode) == (0.0, "llama", False, None)
        return self.weight * (hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))  # type: ignore[no-any-return]


class Gated:
    calls = 0

    def forward(self: Any, hidden: Tensor) -> Tensor:
        Gated.calls += 1
        return self.down_proj(nn.functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))  # type: ignore[no-any-return]


@pytest.fixture
def liger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU and the package."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "liger_kernel", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", SimpleNamespace(LigerRMSNorm=Norm, LigerSwiGLUMLP=Gated))
    Norm.calls = Gated.calls = 0


@pytest.mark.parametrize("name", sorted(BUILDERS))
@pytest.mark.usefixtures("liger")
def test_norms_and_units_of_the_language_model_are_replaced(tmp_path: Path, name: str) -> None:
    model = load_model(BUILDERS[name](tmp_path))
    use_liger(model)
    changed = {path for path, module in model.named_modules() if "forward" in vars(module)}
    assert changed
    assert all(path.startswith("model.language_model.") for path in changed)
    layers = len(model.model.language_model.layers)
    assert sum(path.endswith(".mlp") for path in changed) == layers
    assert sum(path.endswith("layernorm") for path in changed) == 2 * layers
    assert "model.language_model.norm" in changed


@pytest.mark.usefixtures("liger")
def test_every_replaced_module_runs(tiny_base: Path, tiny_media: Path) -> None:
    model = load_model(tiny_base)
    batch = a_batch(tiny_base, tiny_media)
    with torch.no_grad():
        before = TreeModel(model)(batch)
        use_liger(model)
        after = TreeModel(model)(batch)
    assert torch.allclose(before, after, atol=1e-5)
    assert (Norm.calls, Gated.calls) == (5, 2)


def test_without_gpu_it_is_refused(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"needs a GPU, and torch sees none here: set training\.kernels to torch"):
        use_liger(load_model(tiny_base))


@pytest.mark.usefixtures("liger")
def test_without_its_package_it_is_refused(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    with pytest.raises(UserError, match=r"needs the package liger-kernel: install it, or set training\.kernels to torch"):
        use_liger(load_model(tiny_base))


@pytest.mark.usefixtures("liger")
def test_model_without_such_modules_is_refused() -> None:
    inner = SimpleNamespace(language_model=nn.Linear(2, 2))
    model = SimpleNamespace(model=inner, config=SimpleNamespace(text_config=SimpleNamespace(model_type="other")))
    with pytest.raises(UserError, match="language model other has no norm or gated unit"):
        use_liger(model)
