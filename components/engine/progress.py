"""Signs of progress from a model's modules, for the launcher that ends ranks which wait for each other for ever.

- Forward: the blocks of the model, and what lies outside of blocks, beat as they are called.
- Backward: every trained weight beats as its gradient is there.
- Under ZeRO-3, DeepSpeed's own fetches are recorded, forward and backward: all ranks must make the same ones in the same order.

A process that is no rank is left as it is.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from components.processes import heartbeat
from components.processes.heartbeat import Heartbeat


def follow(model: nn.Module, engine: Any = None) -> None:
    """Have `model` beat for this rank. `engine` is DeepSpeed's, where one holds the weights."""
    beats = heartbeat.own()
    if beats is None:
        return
    names = {id(module): name for name, module in model.named_modules()}
    numbers = {key: number for number, key in enumerate(names)}
    beats.names([name or "the model" for name in names.values()])
    for module in _places(model):
        module.register_forward_pre_hook(_on_call(beats, numbers[id(module)]))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_on_gradient(beats))  # type: ignore[no-untyped-call]
    coordinator = _coordinator(engine)
    if coordinator is not None:
        coordinator.fetch_sub_module = _recorded(coordinator.fetch_sub_module, beats, numbers)


def _places(model: nn.Module) -> list[nn.Module]:
    """Blocks, which are the members of module lists, and modules with weights outside of them."""
    places: list[nn.Module] = []

    def visit(module: nn.Module) -> None:
        if isinstance(module, nn.ModuleList):
            places.extend(module)
            return
        if any(True for _ in module.parameters(recurse=False)):
            places.append(module)
        for child in module.children():
            visit(child)

    visit(model)
    return places


def _on_call(beats: Heartbeat, number: int) -> Any:
    def before(_module: nn.Module, _inputs: Any) -> None:
        beats.beat(number)

    return before


def _on_gradient(beats: Heartbeat) -> Any:
    def after(_parameter: Tensor) -> None:
        beats.beat()

    return after


def _coordinator(engine: Any) -> Any:
    """What fetches the weights of DeepSpeed's `engine` under ZeRO-3; None where nothing is spread."""
    optimizer = getattr(engine, "optimizer", None)
    offload = getattr(optimizer, "parameter_offload", optimizer)
    get = getattr(offload, "get_param_coordinator", None)
    return None if get is None else get()


def _recorded(fetch: Any, beats: Heartbeat, numbers: dict[int, int]) -> Any:
    def fetch_sub_module(module: nn.Module, forward: bool) -> Any:
        number = numbers.get(id(module))
        if number is not None:
            beats.gather(number, backward=not forward)
        return fetch(module, forward=forward)

    return fetch_sub_module
