"""Qwen2-VL: a tower for any resolution, a merger of 2x2 patches, Qwen2 with M-RoPE. Qwen2.5-VL and Qwen3-VL build on this adapter.

- The merger is a part of `visual` in transformers, though it is the projector. Hooks catch its input, so that the vision tower's own forward
  runs in every version.
- The vision tower's output has the prompt's order, with the patches of one token together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from components.families.base import Family, Frames, Kind, Medium, Part, Picture, Projected, Root, VisionOutput, kinds_in
from components.families.mrope import Grid, mrope_positions

# The record has no frame times. Qwen's own tools sample videos at this rate, so the models were trained with it.
FRAMES_PER_SECOND = 2.0
PIXELS: dict[Kind, str] = {"image": "pixel_values", "video": "pixel_values_videos"}
GRID: dict[Kind, str] = {"image": "image_grid_thw", "video": "video_grid_thw"}


class Qwen2VL(Family):
    """The adapter. A tower output is [tokens, patches a token, D]."""

    model_type: ClassVar[str] = "qwen2_vl"
    axes: ClassVar[int] = 3

    def encode(
        self, processor: Any, config: Any, text: str, images: Sequence[Picture], videos: Sequence[Frames], keys: Sequence[str]
    ) -> Root:
        """Patches of each medium (`pixel_values` [patches, C * T * P * P]) and its grid in patches (`image_grid_thw` [1, 3])."""
        kinds = kinds_in(text, processor, images, videos)
        arguments: dict[str, Any] = {}
        if images:
            arguments["images"] = list(images)
        if videos:
            arguments.update(self._video_arguments(processor, videos))
        encoded = processor(text=[text], return_tensors="pt", **arguments)
        input_ids = tuple(encoded["input_ids"][0].tolist())
        if not keys:
            return Root(input_ids)
        present: list[Kind] = [kind for kind in ("image", "video") if kind in kinds]
        tensors = {kind: iter(self._tensors(kind, encoded)) for kind in present}
        grids = {kind: iter(self._grids(config, kind, encoded)) for kind in present}
        media = tuple(Medium(kind, key, next(tensors[kind])) for kind, key in zip(kinds, keys, strict=True))
        placeholders = set(self.placeholder_ids(config))
        ordered = [grid for kind in kinds for grid in next(grids[kind])]
        return Root(input_ids, media, mrope_positions([token in placeholders for token in input_ids], ordered))

    def placeholder_ids(self, config: Any) -> tuple[int, ...]:
        """Image and video placeholders."""
        return config.image_token_id, config.video_token_id

    def structure(self, processor: Any) -> set[str]:
        """The placeholders and the marks around a medium."""
        return {processor.image_token, processor.video_token, "<|vision_start|>", "<|vision_end|>"}

    def vision_tower(self, model: Any, media: Sequence[Medium]) -> list[VisionOutput]:
        """The blocks' output, which is the merger's input; one pass reads all media, which are of one kind."""
        visual = model.model.visual
        kind = media[0].kind
        pixels = torch.cat([medium.tensors[PIXELS[kind]] for medium in media]).to(model.device, visual.dtype)
        grids_M3 = torch.cat([medium.tensors[GRID[kind]] for medium in media])
        group = visual.spatial_merge_size**2
        with ExitStack() as stack:
            for merger in self._mergers(visual):
                stack.enter_context(_caught(merger, group))
            levels = self._levels(visual(pixels, grid_thw=grids_M3.to(model.device)))
        tokens = (grids_M3.prod(-1) // group).tolist()
        return list(zip(*(torch.split(level.reshape(len(level), group, -1), tokens) for level in levels), strict=True))

    def project(
        self,
        model: Any,
        media: Sequence[Medium],  # noqa: ARG002 -- images and videos are treated alike
        outputs: Sequence[VisionOutput],
    ) -> list[Projected]:
        """The merger's rows; those of further levels go to deeper layers."""
        tokens = [len(output[0]) for output in outputs]
        levels = [
            torch.split(merger(torch.cat(level).flatten(0, 1)), tokens)
            for merger, level in zip(self._mergers(model.model.visual), zip(*outputs, strict=True), strict=True)
        ]
        return [Projected(first, tuple(deeper)) for first, *deeper in zip(*levels, strict=True)]

    def modules(self, model: Any) -> dict[Part, list[nn.Module | nn.Parameter]]:
        """The mergers are the projector; the other modules of `visual` are the vision tower."""
        inner = model.model
        projector = [name for name, _ in inner.visual.named_children() if "merger" in name]
        return {
            "tower": [module for name, module in inner.visual.named_children() if name not in projector],
            "projector": [inner.visual.get_submodule(name) for name in projector],
            "language_model": [inner.language_model],
            "lm_head": [model.lm_head],
        }

    def dummy(self, config: Any) -> Medium:
        """An image of one token."""
        vision = config.vision_config
        side = vision.spatial_merge_size
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return Medium("image", "dummy", {"pixel_values": torch.zeros(side**2, width), "image_grid_thw": torch.tensor([[1, side, side]])})

    def _mergers(self, visual: Any) -> list[nn.Module]:
        """The merger, followed by the mergers of deeper levels."""
        return [visual.merger]

    def _levels(self, outputs: Any) -> list[Tensor]:
        """Each merger's input [tokens, patches a token * D], from the outputs under `_caught`."""
        return [outputs.pooler_output]

    @staticmethod
    def _tensors(kind: Kind, encoded: Any) -> list[dict[str, Tensor]]:
        """Patches and grid of each medium of a kind."""
        grids_M3 = encoded[GRID[kind]]
        pixels = torch.split(encoded[PIXELS[kind]], grids_M3.prod(-1).tolist())
        return [{PIXELS[kind]: patches.contiguous(), GRID[kind]: grid[None]} for patches, grid in zip(pixels, grids_M3, strict=True)]

    def _grids(self, config: Any, kind: Kind, encoded: Any) -> list[list[Grid]]:
        """The grids of each medium of a kind: one, or several with text between them."""
        side = config.vision_config.spatial_merge_size
        return [
            [Grid(time, height // side, width // side, self._interval(config, kind, encoded, number))]
            for number, (time, height, width) in enumerate(encoded[GRID[kind]].tolist())
        ]

    def _interval(self, config: Any, kind: Kind, encoded: Any, number: int) -> Tensor | float:  # noqa: ARG002 -- for Qwen2.5-VL
        """Distance of two frames in time."""
        return 1.0

    @staticmethod
    def _video_arguments(processor: Any, videos: Sequence[Frames]) -> dict[str, Any]:
        """Frames without resampling, with their times. A single frame is doubled, since the vision tower reads pairs."""
        pair = processor.video_processor.temporal_patch_size
        numbers = [[min(number, len(frames) - 1) for number in range(max(len(frames), pair))] for frames in videos]
        metadata = [
            {"total_num_frames": len(chosen), "fps": FRAMES_PER_SECOND, "frames_indices": chosen, "height": None, "width": None}
            for chosen in numbers
        ]
        return {
            "videos": [frames[chosen] for frames, chosen in zip(videos, numbers, strict=True)],
            "video_metadata": metadata,
            "do_sample_frames": False,
        }


@contextmanager
def _caught(merger: nn.Module, group: int) -> Iterator[None]:
    """Inside, `merger` returns its input [patches, D] as [tokens, group * D]. It computes one token only, so that an engine's hooks run."""
    inputs: list[Tensor] = []

    def before(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        inputs.append(arguments[0])
        return (arguments[0][:group], *arguments[1:])

    def after(_: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:  # noqa: ARG001 -- a hook's signature
        patches = inputs.pop()
        return patches.reshape(-1, group * patches.shape[-1])

    handles = (merger.register_forward_pre_hook(before), merger.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
