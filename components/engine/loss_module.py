"""What the engines wrap: a task's model and its loss in one module.

DeepSpeed finds no gradient in an output that is no tensor, tuple or dict, and DDP waits for ever for parameters that feed an output that the
loss does not use; a loss that is computed inside has neither trouble.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from components.engine.groups import vision_language_model
from components.engine.partitions import partitioned
from components.engine.task import TrainingTask
from components.families.adapters import family_of
from components.trees.trees import PADDING, TreeBatch


class LossModule(nn.Module):
    """A task's model and loss in one forward, which autocasts to `autocast` where one is named and then gives fp32."""

    def __init__(self, task: TrainingTask, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = task.model
        self._task = task
        self._autocast = autocast

    def forward(self, batch: dict[str, Any], outputs_alone: bool = False) -> Any:
        """(loss, metrics) of a micro-batch, whose metrics carry no gradient; or the model's outputs alone."""
        if self._autocast is None:
            return self._forward(batch, outputs_alone)
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, self._autocast):
            return in_fp32(self._forward(batch, outputs_alone))

    def _forward(self, batch: dict[str, Any], outputs_alone: bool) -> Any:
        outputs = self.model(**batch)
        if outputs_alone:
            return outputs
        loss, metrics = self._task.loss(outputs, batch)
        return loss, {name: value.detach() for name, value in metrics.items()}


def in_fp32(value: Any) -> Any:
    """`value` with its half-precision tensors in fp32: a tensor, or tuples, lists and dicts of them; anything else as it is."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(in_fp32, value))
    if isinstance(value, tuple | list):
        return type(value)(map(in_fp32, value))
    if isinstance(value, dict):
        return {name: in_fp32(member) for name, member in value.items()}
    return value


def trees_of(batch: dict[str, Any]) -> list[TreeBatch]:
    """A micro-batch's packed trees."""
    return [value for value in batch.values() if isinstance(value, TreeBatch)]


def occupancy(batch: dict[str, Any]) -> Tensor:
    """[tokens, slots] of a micro-batch's packed trees; zeros where it has none."""
    trees = [value.tree_RL for value in trees_of(batch)]
    filled = sum(((tree_RL != PADDING).sum() for tree_RL in trees), start=torch.zeros((), dtype=torch.long))
    return torch.stack([filled, filled.new_tensor(sum(tree_RL.numel() for tree_RL in trees))])


def give_vision_gradients(model: nn.Module) -> None:
    """Have every backward pass reach the trained weights of tower and projector, whatever media it has, and in one order.

    ZeRO-1 and 2 lay gradients out in the order in which they come, and add the ranks' up by place. Without this, a rank with text beside one
    with images would end the run, or worse, mix gradients of equal size up. ZeRO-3 goes by parameters' ids.
    """
    inner = vision_language_model(model)
    if inner is None or partitioned(model):
        return
    parts = family_of(inner.config).modules(inner)
    members = [member for part in ("tower", "projector") for member in parts[part]]
    parameters = [p for member in members for p in ([member] if isinstance(member, nn.Parameter) else member.parameters())]
    trained = [parameter for parameter in parameters if parameter.requires_grad]

    def touch(module: nn.Module, inputs: Any, embeddings: Tensor) -> Tensor:  # noqa: ARG001
        return _Touch.apply(embeddings, *trained) if torch.is_grad_enabled() else embeddings

    if trained:
        inner.get_input_embeddings().register_forward_hook(touch)


class _Touch(torch.autograd.Function):
    """Hands embeddings on; backward gives the other inputs a gradient of zero. They come before tower and projector, so backward is last here."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(*weights)
        return embeddings.view_as(embeddings)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return grad, *(torch.zeros_like(weight) for weight in ctx.saved_tensors)
