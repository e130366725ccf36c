"""Which activations of the decoder's layers are kept for the backward pass, and which it computes again.

- `none`: all are kept.
- `selective`: the results of matrix products and of sdpa attention are kept; norms, activations and rotations are computed again. These are
  most of the bytes and little of the work.
- `all`: a layer's input is kept, and the layer is computed again: the least memory, a third more operations.

The gradients have the same bits in each. torch's own selective checkpoints demand that a layer calls the same operators in both passes; under
ZeRO-3 it does not, since backward gathers weights in another way. So here only the kept operators are counted.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

Recomputation = Literal["none", "selective", "all"]

_ATEN = torch.ops.aten
RETAINED = {
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN.bmm.default,
    _ATEN._scaled_dot_product_flash_attention.default,  # noqa: SLF001 -- the operators' own names
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,  # noqa: SLF001
    _ATEN._scaled_dot_product_efficient_attention.default,  # noqa: SLF001
    _ATEN._scaled_dot_product_cudnn_attention.default,  # noqa: SLF001
}
Results = dict[Any, deque[Any]]  # of a layer's forward pass, by operator, in order


def set_recomputation(model: Any, recomputation: Recomputation) -> None:
    """Have training of a vision-language model compute activations again as `recomputation` says."""
    if recomputation == "none":
        return
    # Under ZeRO-3 a weight is an empty tensor before backward and whole in it: a check that compares the two passes would fail.
    arguments: dict[str, Any] = {"use_reentrant": False, "determinism_check": "none"}
    if recomputation == "selective":
        arguments["context_fn"] = _both_passes
    # transformers 5.17, which GPU machines have, knows the older name alone.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(arguments)
    # It has embeddings require a gradient, of which only reentrant checkpoints have need: a frozen vision tower would run backward too.
    model.disable_input_require_grads()


def _both_passes() -> tuple[TorchDispatchMode, TorchDispatchMode]:
    """The modes of a layer's forward pass and of its second run in backward."""
    results: Results = defaultdict(deque)
    return _Keeping(results), _Reusing(results)


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's modes have no types
    """A mode of one pass over a layer."""

    def __init__(self, results: Results) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.results = results

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Flex attention is compiled: it runs as a whole, and is computed again."""
        return True


class _Keeping(_Mode):  # type: ignore[no-untyped-call]
    """Keeps the results of the operators in RETAINED."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        if function in RETAINED:
            self.results[function].append(tree_map_only(torch.Tensor, torch.Tensor.detach, result))
        return result


class _Reusing(_Mode):  # type: ignore[no-untyped-call]
    """Gives them back in place of a second computation."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        return self.results[function].popleft() if function in RETAINED else function(*arguments, **(named or {}))
