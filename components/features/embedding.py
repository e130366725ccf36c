"""From media to the language model's input: tower, projector and packing by the family's adapter.

- Features go to the placeholders in reading order. Media of one kind run through the tower together.
- A medium whose tower output is kept skips the tower. One that belongs to a filled cache, but found no room in it, runs through the tower
  alone, exactly as it would have been when the cache was filled: its features have the same bits whether it is kept or not.
- Where ZeRO-3 holds tower or projector in parts, a call gathers them from all ranks. So every rank calls each of them as often as the one
  that needs it most, on the family's smallest medium and with weight 0 where it has nothing of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, distributed, nn

from components.families.adapters import Family, Medium, Projected, Root, TowerOutput, family_of

_IDLE: WeakKeyDictionary[nn.Module, TowerOutput] = WeakKeyDictionary()  # a model's output for the smallest medium, where ranks keep in step


@dataclass(frozen=True)
class UnkeptMedium(Medium):
    """A medium of a filled cache that is not kept there: it is treated live as the cache would have treated it."""

    kept_as: torch.dtype = torch.float32
    threads: int = 1  # of the CPU, with which the cache is filled


def tower_alone(model: Any, medium: Medium, kept_as: torch.dtype, threads: int) -> TowerOutput:
    """A medium's tower output as it is kept, in `kept_as`.

    It runs by itself: kernels see the same shapes whatever else there is, so that the output depends on the medium alone.
    """
    with torch.no_grad(), _cpu_threads(threads):
        (output,) = family_of(model.config).tower(model, [medium])
    return tuple(level.to(kept_as) for level in output)


def embed(model: Any, input_ids_RL: Tensor, roots: Sequence[Root]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Input embeddings [R, L, H] with the roots' media at their placeholders, where these are [R, L], and what deeper layers add.

    `roots` stand in the order in which their placeholders appear, row by row. Raises ValueError when the counts differ.
    """
    embeddings: Tensor = model.get_input_embeddings()(input_ids_RL)
    placeholders = torch.tensor(family_of(model.config).placeholder_ids(model.config), device=input_ids_RL.device)
    media_RL = torch.isin(input_ids_RL, placeholders)
    projected, idle = _in_step(model, [medium for root in roots for medium in root.media])
    if idle is not None:
        embeddings = embeddings + idle.to(embeddings.dtype)
    if not projected:
        return embeddings, media_RL, []
    flat = torch.cat([item.features_LH for item in projected]).to(embeddings.dtype)
    if int(media_RL.sum()) != len(flat):
        raise ValueError(f"{int(media_RL.sum())} media placeholders, but {len(flat)} features: the processor and the model do not fit")
    deeper = [torch.cat(level) for level in zip(*(item.deeper for item in projected), strict=True)]
    return embeddings.masked_scatter(media_RL[..., None], flat), media_RL, deeper


def media_features(model: Any, media: Sequence[Medium]) -> list[Projected]:
    """What goes to the placeholders of each medium, in order."""
    return _in_step(model, media)[0]


def _in_step(model: Any, media: Sequence[Medium]) -> tuple[list[Projected], Tensor | None]:
    """What goes to the placeholders; and, where calls were made for other ranks' sake, a scalar 0 through which backward reaches them."""
    family = family_of(model.config)
    parts = family.modules(model)
    gathered = {"tower": _is_partitioned(parts["tower"]), "projector": _is_partitioned(parts["projector"])}
    if any(gathered.values()) and model not in _IDLE:
        # All ranks come here for the first time together.
        _IDLE[model] = tuple(level.detach() for level in family.tower(model, [family.dummy(model.config)])[0])
    idle: list[Tensor] = []

    # The calls are counted before the first: a rank that is inside one waits for the others' weights, not for their counts.
    calls = _tower_calls(media)
    for _ in range(_most(calls, model.device) - calls if gathered["tower"] else 0):
        idle += family.tower(model, [family.dummy(model.config)])[0]
    outputs = _tower_outputs(family, model, media)

    found: dict[int, Projected] = {}
    groups = _groups(media, [tuple(output[0].shape) for output in outputs])
    # Once at least: modules in the same order at every step are gathered ahead.
    for _ in range(max(1, _most(len(groups), model.device)) - len(groups) if gathered["projector"] else 0):
        (projected,) = family.project(model, [family.dummy(model.config)], [_IDLE[model]])
        idle += [projected.features_LH, *projected.deeper]
    for group in groups:
        chosen = [media[index] for index in group]
        found.update(zip(group, family.project(model, chosen, [outputs[index] for index in group]), strict=True))
    zero = torch.stack([0 * tensor.sum() for tensor in idle]).sum() if idle else None
    return [found[index] for index in range(len(media))], zero


def _tower_calls(media: Sequence[Medium]) -> int:
    """How often `_tower_outputs` calls the tower."""
    unkept = sum(medium.features is None and isinstance(medium, UnkeptMedium) for medium in media)
    live = [medium for medium in media if medium.features is None and not isinstance(medium, UnkeptMedium)]
    return unkept + len(_groups(live, [_shape(medium) for medium in live]))


def _tower_outputs(family: Family, model: Any, media: Sequence[Medium]) -> list[TowerOutput]:
    """Each medium's features before the projector, on the device and in the dtype of the model."""
    found: dict[int, TowerOutput] = {}
    live: list[int] = []
    for index, medium in enumerate(media):
        output = medium.features
        if output is None and isinstance(medium, UnkeptMedium):
            output = tower_alone(model, medium, medium.kept_as, medium.threads)
        if output is None:
            live.append(index)
        else:
            found[index] = tuple(level.to(model.device, model.dtype) for level in output)
    groups = _groups([media[index] for index in live], [_shape(media[index]) for index in live])
    for group in groups:
        indices = [live[place] for place in group]
        found.update(zip(indices, family.tower(model, [media[index] for index in indices]), strict=True))
    return [found[index] for index in range(len(media))]


def _groups(media: Sequence[Medium], shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Indices of media that run together: all images, and videos of one shape. Longer videos beside others would be cut differently."""
    images = [index for index, medium in enumerate(media) if medium.kind == "image"]
    videos: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, medium in enumerate(media):
        if medium.kind == "video":
            videos[shapes[index]].append(index)
    return [*([images] if images else []), *(videos[shape] for shape in sorted(videos))]


def _is_partitioned(owners: Sequence[nn.Module | nn.Parameter]) -> bool:
    """Whether ZeRO-3 holds a part's weights in pieces: it gives parameters an id."""
    weights = (weight for owner in owners for weight in (owner.parameters() if isinstance(owner, nn.Module) else [owner]))
    return "ds_id" in vars(next(weights))


def _most(count: int, device: torch.device) -> int:
    """The largest `count` of all ranks."""
    if not distributed.is_available() or not distributed.is_initialized():
        return count
    most = torch.tensor(count, device=device)
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return int(most)


@contextmanager
def _cpu_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if before != threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if before != threads:
            torch.set_num_threads(before)


def _shape(medium: Medium) -> tuple[int, ...]:
    return tuple(medium.tensors[max(medium.tensors, key=lambda name: medium.tensors[name].nbytes)].shape)
