"""From media to the language model's input: vision tower, projector and packing by the family's adapter.

- Features go to the placeholders in reading order. The vision tower reads media of one kind together.
- A medium with cached output skips the tower. For a medium that found no room in a filled cache, the tower runs alone, exactly as in the fill:
  its features have the same bits, cached or not.
- Nothing waits for the device: positions of features follow from counts that the roots hold.
- If ZeRO-3 partitions tower or projector, a call gathers them from all ranks. So every rank calls each as often as the rank with the most
  calls. For its extra calls, a rank uses the family's smallest medium with weight 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, distributed, nn

from components.families.adapters import Family, Medium, Projected, Root, VisionOutput, family_of

_IDLE: WeakKeyDictionary[nn.Module, VisionOutput] = WeakKeyDictionary()  # a model's output for the smallest medium, for ranks in lockstep


@dataclass(frozen=True)
class UncachedMedium(Medium):
    """A medium that found no room in a filled cache: its live output has the bits that the cache would have."""

    cache_dtype: torch.dtype = torch.float32
    threads: int = 1  # CPU threads of the fill


def run_vision_tower(model: Any, medium: Medium, cache_dtype: torch.dtype, threads: int) -> VisionOutput:
    """A medium's vision tower output as the cache stores it, in `cache_dtype`.

    The tower reads one medium: its kernels always see the same shapes, so that the output depends only on the medium.
    """
    with torch.no_grad(), _cpu_threads(threads):
        (output,) = family_of(model.config).vision_tower(model, [medium])
    return tuple(level.to(cache_dtype) for level in output)


def embed(model: Any, input_ids_RL: Tensor, roots: Sequence[Root]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Input embeddings [R, L, H] with the roots' media at their placeholders, the mask of placeholders [R, L], and the rows of deeper layers.

    `roots` have the order of their placeholders, row by row. Raises ValueError when placeholders and features differ in number.
    """
    embeddings: Tensor = model.get_input_embeddings()(input_ids_RL)
    ids = family_of(model.config).placeholder_ids(model.config)
    media_RL = torch.stack([input_ids_RL == placeholder for placeholder in ids]).any(0)
    projected, idle = _in_lockstep(model, [medium for root in roots for medium in root.media])
    if idle is not None:
        embeddings = embeddings + idle.to(embeddings.dtype)
    if not projected:
        return embeddings, media_RL, []
    flat = torch.cat([item.features_LH for item in projected]).to(embeddings.dtype)
    # Counted in the roots, which are here: the device would be waited for. Texts of data hold no placeholders.
    count = sum(int(np.isin(np.asarray(root.input_ids), ids).sum()) for root in roots if root.media)
    if count != len(flat):
        raise ValueError(f"{count} media placeholders, but {len(flat)} features: the processor does not match the model")
    deeper = [torch.cat(level) for level in zip(*(item.deeper for item in projected), strict=True)]
    index_N = torch.nonzero_static(media_RL.flatten(), size=count)[:, 0]
    return embeddings.flatten(0, 1).index_copy(0, index_N, flat).view_as(embeddings), media_RL, deeper


def _in_lockstep(model: Any, media: Sequence[Medium]) -> tuple[list[Projected], Tensor | None]:
    """The rows for the placeholders; and, after calls for other ranks' sake, a scalar 0 through which backward reaches these calls."""
    family = family_of(model.config)
    parts = family.modules(model)
    gathered = {"tower": _is_partitioned(parts["tower"]), "projector": _is_partitioned(parts["projector"])}
    if any(gathered.values()) and model not in _IDLE:
        # All ranks reach this line for the first time together.
        _IDLE[model] = tuple(level.detach() for level in family.vision_tower(model, [family.dummy(model.config)])[0])
    idle: list[Tensor] = []

    # All ranks exchange the counts before the first call: inside a call, a rank waits for the others' weights, not for their counts.
    calls = _vision_calls(media)
    for _ in range(_most(calls) - calls if gathered["tower"] else 0):
        idle += family.vision_tower(model, [family.dummy(model.config)])[0]
    outputs = _vision_outputs(family, model, media)

    rows_of: dict[int, Projected] = {}
    groups = _groups(media, [tuple(output[0].shape) for output in outputs])
    # At least once: ZeRO-3 prefetches modules that run in the same order at every step.
    for _ in range(max(1, _most(len(groups))) - len(groups) if gathered["projector"] else 0):
        (projected,) = family.project(model, [family.dummy(model.config)], [_IDLE[model]])
        idle += [projected.features_LH, *projected.deeper]
    for group in groups:
        chosen = [media[index] for index in group]
        rows_of.update(zip(group, family.project(model, chosen, [outputs[index] for index in group]), strict=True))
    zero = torch.stack([0 * tensor.sum() for tensor in idle]).sum() if idle else None
    return [rows_of[index] for index in range(len(media))], zero


def _vision_calls(media: Sequence[Medium]) -> int:
    """The number of calls of the vision tower in `_vision_outputs`."""
    unkept = sum(medium.features is None and isinstance(medium, UncachedMedium) for medium in media)
    live = [medium for medium in media if medium.features is None and not isinstance(medium, UncachedMedium)]
    return unkept + len(_groups(live, [_shape(medium) for medium in live]))


def _vision_outputs(family: Family, model: Any, media: Sequence[Medium]) -> list[VisionOutput]:
    """Each medium's features before the projector, on the device and in the dtype of the model."""
    output_of: dict[int, VisionOutput] = {}
    live: list[int] = []
    for index, medium in enumerate(media):
        output = medium.features
        if output is None and isinstance(medium, UncachedMedium):
            output = run_vision_tower(model, medium, medium.cache_dtype, medium.threads)
        if output is None:
            live.append(index)
        else:
            output_of[index] = tuple(level.to(model.device, model.dtype) for level in output)
    groups = _groups([media[index] for index in live], [_shape(media[index]) for index in live])
    for group in groups:
        indices = [live[position] for position in group]
        output_of.update(zip(indices, family.vision_tower(model, [media[index] for index in indices]), strict=True))
    return [output_of[index] for index in range(len(media))]


def _groups(media: Sequence[Medium], shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Indices of media that run together: all images, and videos of one shape. A batch with longer videos would cut the others differently."""
    images = [index for index, medium in enumerate(media) if medium.kind == "image"]
    videos: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, medium in enumerate(media):
        if medium.kind == "video":
            videos[shapes[index]].append(index)
    return [*([images] if images else []), *(videos[shape] for shape in sorted(videos))]


def _is_partitioned(owners: Sequence[nn.Module | nn.Parameter]) -> bool:
    """Whether ZeRO-3 partitions a part's weights, which it marks by an id."""
    weights = (weight for owner in owners for weight in (owner.parameters() if isinstance(owner, nn.Module) else [owner]))
    return "ds_id" in vars(next(weights))


def _most(count: int) -> int:
    """The largest `count` of all ranks. They exchange it between their processes: nothing waits for a device."""
    if not distributed.is_available() or not distributed.is_initialized():
        return count
    most = torch.tensor(count)
    distributed.all_reduce(most, distributed.ReduceOp.MAX, group=_processes())
    return int(most)


@cache
def _processes() -> Any:
    """The group of all ranks that exchanges what lies in the processes' memory; None for the default one, where that does."""
    return None if distributed.get_backend() == "gloo" else distributed.new_group(backend="gloo")


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
