"""The language model's attention over packed trees: two paths with the same numbers, and checks that refuse wrong ones.

- sdpa: an additive mask [R, 1, L, L] in the model's dtype. For CPU, and for rows of some 4,000 tokens at most: at 8,192 tokens the mask takes
  268 MB a row in fp32 (134 MB in bf16), PyTorch uses no flash kernel with it, and repeats keys and values for each query head.
- flex attention: a BlockMask, compiled once for all lengths, rows padded to whole blocks. For GPU and long rows: the kernel skips fully masked
  blocks of 128 x 128, and no tensor of size L x L stays. The block mask temporarily needs some bytes for each entry of [R, L, L].
- Silently wrong or fatal: eager attention with a boolean mask; flex attention with a plain tensor mask (ends the process on CPU); flash
  attention, which ignores such masks; a full mask on a layer with a sliding window; positions that count on across branches.

Shapes: R rows, L tokens a row, A position axes, N query heads, G key heads, D head size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask, flex_attention

from components.errors import UserError
from components.processes import heartbeat

BLOCK = 128  # tokens of a flex block: rows are padded to a multiple
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class AttentionPath:
    """A model's way to read trees. `window` is the reach in tokens of its sliding-window layers, None without such layers."""

    flex: bool
    window: int | None

    def check_batch(self, input_ids_RL: Tensor, position_ids_RL: Tensor | None) -> None:
        """Raises ValueError for missing or misshapen positions, UserError for rows longer than the window."""
        if position_ids_RL is None or position_ids_RL.shape[-2:] != input_ids_RL.shape:
            raise ValueError("preference trees need a position for each token: without them the model reads the branches as one long text")
        length = input_ids_RL.shape[1]
        if self.window is not None and length > self.window:
            raise UserError(
                f"the language model's sliding-window layers see {self.window} tokens, fewer than a packed row of {length}: "
                f"set training.row_tokens and model.max_length to {self.window} at most, or take a base without sliding windows"
            )


_paths: WeakKeyDictionary[nn.Module, AttentionPath] = WeakKeyDictionary()


def attention_path(model: nn.Module) -> AttentionPath:
    """The path of `model`, examined at its first use. Raises the errors of `examine`."""
    if model not in _paths:
        _paths[model] = examine(model)
    return _paths[model]


def examine(model: Any) -> AttentionPath:
    """Read a model's attention from its config. Raises ValueError for an implementation or a layer type that would misread trees."""
    config = model.config.text_config
    implementation = config._attn_implementation  # noqa: SLF001 - transformers has no public name for the choice
    if implementation not in {"sdpa", "flex_attention"}:
        reason = "ignores the mask that separates branches" if "flash" in str(implementation) else "silently misreads masks"
        raise ValueError(
            f"preference trees need sdpa or flex attention: '{implementation}' {reason}; load the model with attn_implementation='sdpa'"
        )
    if implementation == "flex_attention":
        _register_flex()
    return AttentionPath(flex=implementation == "flex_attention", window=_window(config.to_dict()))


def allowed(tree_RL: Tensor, branch_RL: Tensor) -> MaskMod:
    """Whether token q attends to token k: k is not later, in q's tree, and in the root or q's branch.

    Padding has its own tree number, so that no row of the mask is empty: a softmax over nothing is not a number.
    """

    def mask_mod(row: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:  # noqa: ARG001 - flex attention's signature
        same_tree = tree_RL[row, q] == tree_RL[row, k]
        in_sight = (branch_RL[row, k] == 0) | (branch_RL[row, k] == branch_RL[row, q])
        return (q >= k) & same_tree & in_sight

    return mask_mod


def tree_block_mask(tree_RL: Tensor, branch_RL: Tensor) -> BlockMask:
    """Block mask of packed trees. Raises ValueError unless L is a multiple of BLOCK."""
    rows, length = tree_RL.shape
    if length % BLOCK:
        raise ValueError(f"flex attention needs rows of a multiple of {BLOCK} tokens, not {length}")
    mask_mod = allowed(tree_RL, branch_RL)
    return create_block_mask(mask_mod, B=rows, H=None, Q_LEN=length, KV_LEN=length, device=str(tree_RL.device), BLOCK_SIZE=BLOCK)


def to_blocks(values: Tensor, fill: float = 0) -> Tensor:
    """`values` [..., L], padded with `fill` to whole blocks."""
    return functional.pad(values, (0, -values.shape[-1] % BLOCK), value=fill)


def flex_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: BlockMask | Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **other: Any,
) -> tuple[Tensor, None]:
    """The "flex_attention" of transformers after `examine`: queries [R, N, L, D], keys and values [R, G, L, D] to [R, L, N, D].

    transformers' own function recompiles as lengths and modes change, then silently runs uncompiled beyond a limit, and accepts a plain tensor
    as the mask. Raises ValueError for such a mask, for dropout and for score changes, which the supported families do not have.
    """
    if attention_mask is None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, None, scaling=scaling, dropout=dropout, **other)  # type: ignore[no-any-return]
    if not isinstance(attention_mask, BlockMask):
        raise ValueError("flex attention needs a BlockMask from tree_block_mask: a plain tensor can end the process")  # noqa: TRY004 - a value of the wrong kind is a misuse like the others here
    if dropout > 0:
        raise ValueError(f"flex attention has no dropout: set the model's attention_dropout to 0, not {dropout}")
    changes = [name for name in ("softcap", "s_aux", "position_bias") if other.get(name) is not None]
    if changes:
        raise ValueError(f"flex attention on trees does not support {', '.join(changes)}: load the model with attn_implementation='sdpa'")
    attend = dense_attention if query.device.type == "cpu" else _compiled()
    # Rows have whole blocks, so torch never takes its decoding kernel, which wants a power of two of heads to a key.
    output = attend(query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
    return output.transpose(1, 2).contiguous(), None


def dense_attention(query: Tensor, key: Tensor, value: Tensor, *, block_mask: BlockMask, scale: float | None, enable_gqa: bool) -> Tensor:
    """Flex attention's numbers on a CPU, where it has no backward: computes every entry of the mask."""
    rows, _, length, _ = query.shape
    mask = create_mask(block_mask.mask_mod, rows, None, length, key.shape[2], device=str(query.device))
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)


@cache
def _compiled() -> Callable[..., Tensor]:
    """One compilation for all lengths: with fixed shapes each padded length would take ten seconds or more.

    With `fullgraph`, too many compilations are an error: else the operator would run uncompiled, with all its scores in memory.
    """
    heartbeat.announce_compilations()
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


@cache
def _register_flex() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register("flex_attention", flex_forward)
    if not torch.cuda.is_available():
        print(
            "warning: flex attention has no backward on a CPU, so the model reads its mask densely: set model.attention to sdpa, which is faster",
            file=sys.stderr,
            flush=True,
        )


def _window(config: dict[str, Any]) -> int | None:
    """Reach in tokens of sliding-window layers in a text config. Raises ValueError for other kinds of layers."""
    layers = set(config.get("layer_types") or ())
    unknown = sorted(layers - {"full_attention", "sliding_attention"})
    if unknown:
        raise ValueError(f"preference trees need full attention in every layer, but this language model has {', '.join(unknown)} layers")
    window: int | None = config.get("sliding_window")
    slides = "sliding_attention" in layers if layers else config.get("use_sliding_window", window is not None)
    if not slides:
        return None
    if window is None:
        raise ValueError("the language model's config has sliding-window layers but no sliding_window: add their reach in tokens")
    return window
