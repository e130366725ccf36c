"""Weights that ZeRO-3 has spread over the ranks: made whole where a task or a check needs them.

- A partitioned parameter is empty outside its module's forward; its rank's piece lies in `ds_tensor`.
- Every function here that gathers is a collective: all ranks call it, with the same model.
- Where nothing is partitioned, each of them does nothing or the plain thing, and DeepSpeed is not imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn

from components.processes import heartbeat


def partitioned(model: nn.Module) -> list[Any]:
    """The parameters of `model` that are spread over ranks, each once."""
    return [parameter for parameter in model.parameters() if "ds_id" in vars(parameter)]


def size(parameter: Any) -> int:
    """Number of a parameter's elements, also where only a piece of it is here."""
    return int(parameter.ds_numel) if "ds_id" in vars(parameter) else parameter.numel()


@contextlib.contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Inside, every rank holds all weights on its device, as plain parameters: for forward passes before an engine has wrapped `model`.

    Ranks may run it in unequal numbers of passes. The weights must not be changed, and the contexts must not be nested.
    """
    parameters = partitioned(model)
    if not parameters:
        yield
        return
    from deepspeed import zero

    with zero.GatheredParameters(parameters), _plain(model):
        yield


@contextlib.contextmanager
def whole_in_engine(engine: Any, settings: Any) -> Iterator[None]:
    """`whole` for a model that DeepSpeed's `engine` has wrapped, whose hooks would take the weights apart after each module.

    `settings` is transformers' HfDeepSpeedConfig, hidden meanwhile: with it, generation would take steps on all ranks together.
    """
    if not partitioned(engine):
        yield
        return
    from deepspeed import zero
    from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

    with zero.unwrap_model_for_generation(engine), _plain(engine):
        unset_hf_deepspeed_config()
        try:
            yield
        finally:
            set_hf_deepspeed_config(settings)


@contextlib.contextmanager
def _plain(model: nn.Module) -> Iterator[None]:
    """Inside, gathered parameters are ordinary ones: code that keeps ranks in step where weights are spread has nothing to wait for."""
    places = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if "ds_id" in vars(parameter)
    ]
    stand_in = {parameter: nn.Parameter(parameter.data, requires_grad=False) for _, _, parameter in places}
    for module, name, parameter in places:
        setattr(module, name, stand_in[parameter])
    try:
        yield
    finally:
        for module, name, parameter in places:
            setattr(module, name, parameter)


@contextlib.contextmanager
def whole_on_rank_0(model: nn.Module) -> Iterator[None]:
    """Inside, rank 0 holds all weights, those that were partitioned in CPU memory: for an export of a model larger than a device."""
    parameters = partitioned(model)
    if not parameters:
        yield
        return
    from deepspeed import zero

    copies: list[Tensor] = []
    for parameter in parameters:
        heartbeat.beat()
        with zero.GatheredParameters([parameter]):
            if distributed.get_rank() == 0:
                copies.append(parameter.data.to("cpu", copy=True))
    pieces = [parameter.data for parameter in parameters]
    for parameter, full in zip(parameters, copies, strict=False):  # none is kept on other ranks
        parameter.data = full
    try:
        yield
    finally:
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.data = piece


def read_whole(tensor: Tensor) -> Tensor:
    """All of a parameter or buffer in CPU memory, on every rank."""
    heartbeat.beat()
    if "ds_id" not in vars(tensor):
        return tensor.detach().cpu()
    from deepspeed import zero

    with zero.GatheredParameters([tensor]):
        return tensor.detach().to("cpu", copy=True)


def sums(model: nn.Module) -> Tensor:
    """The sum of each trained parameter in float64, the same on every rank."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    totals = torch.stack([_own_piece(parameter).sum(dtype=torch.float64) for parameter in trained])
    if any("ds_id" in vars(parameter) for parameter in trained):
        distributed.all_reduce(totals)
    return totals


def _own_piece(parameter: Any) -> Tensor:
    """What this rank holds of a parameter, without the padding that evens the pieces out."""
    if "ds_id" not in vars(parameter):
        return parameter.detach()  # type: ignore[no-any-return]
    length = parameter.partition_numel()
    start = length * distributed.get_rank(parameter.ds_process_group)
    piece: Tensor = parameter.ds_tensor.detach()
    return piece.flatten()[: max(0, min(length, parameter.ds_numel - start))]
