"""Triton kernels of the package liger-kernel in place of torch's, for the norms and gated units of the language model, on GPUs.

Each module's forward is replaced, and no class: models that are opened later in this process, and vision towers, keep torch's kernels, so that
cached features have the same bits. The head is not replaced: the chunked log-probs read it.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn

from components.errors import UserError

GATED = ("gate_proj", "up_proj", "down_proj")
SILU = ("SiLU", "SiLUActivation")  # torch's and transformers'


def use_liger(model: Any) -> None:
    """Replace the kernels of an opened vision-language model.

    Raises UserError without a GPU, without the package, and for a language model without such modules.
    """
    if not torch.cuda.is_available():
        raise UserError("training.kernels liger needs a GPU, and torch sees none here: set training.kernels to torch")
    try:
        from liger_kernel.transformers import LigerRMSNorm, LigerSwiGLUMLP
    except ImportError as error:
        raise UserError("training.kernels liger needs the package liger-kernel: install it, or set training.kernels to torch") from error
    replaced = 0
    for module in model.model.language_model.modules():
        if _is_norm(module):
            # As the class's own constructor sets them for Llama's and Qwen's norms; not in place, since a layer's input is read again.
            module.offset, module.casting_mode, module.in_place, module.row_mode = 0.0, "llama", False, None
            module.forward = MethodType(LigerRMSNorm.forward, module)
        elif _is_gated(module):
            module.forward = MethodType(LigerSwiGLUMLP.forward, module)
        else:
            continue
        replaced += 1
    if not replaced:
        raise UserError(f"the language model {model.config.text_config.model_type} has no norm or gated unit that liger-kernel computes")


def _is_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")


def _is_gated(module: nn.Module) -> bool:
    return all(hasattr(module, name) for name in GATED) and type(getattr(module, "act_fn", None)).__name__ in SILU
