"""Patches of a medium in the vision tower, and its tokens in the language model, from its size in pixels.

The rules are those of the families' processors at their defaults. Processor files beside config.json may set other limits; they are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.files import read_json
from components.rehearsal.parameters import Architecture, pair, section

PINPOINTS = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
ANYRES_TILES = 9  # above the tokens of so many tiles, LLaVA-OneVision shrinks the projector's output (anyres_max_9)
PIXELS = {"qwen2_vl": (3136, 12845056), "qwen2_5_vl": (3136, 12845056), "qwen3_vl": (65536, 16777216)}  # least and most of an image
FRAME_PIXELS = {"qwen2_vl": (100352, 602112), "qwen2_5_vl": (100352, 602112), "qwen3_vl": (131072, 786432)}
CROPS = 12  # most tiles of an InternVL image, beside the tile of the whole image


@dataclass(frozen=True)
class MediumSize:
    """The costs of a medium: patches in the vision tower, patches in the feature cache, tokens in the language model."""

    patches: int
    cached: int
    tokens: int


def processor_limits(base: Path) -> dict[str, Any]:
    """The image processor's settings beside a checkpoint, {} without such a file."""
    for name, inner in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        if (base / name).is_file():
            values = read_json(base / name)
            chosen = values.get(inner) if inner else values
            if isinstance(chosen, dict):
                return chosen
    return {}


def image_size(model: Architecture, width: int, height: int, limits: Mapping[str, Any]) -> MediumSize:
    """An image of `width` x `height` pixels, the only one in its prompt."""
    if model.family == "llava_onevision":
        return _llava_image(model, width, height, limits)
    if model.family == "internvl":
        return _internvl(model, _crops(width, height, limits))
    low, high = _pixels(limits, PIXELS[model.family])
    return _qwen(model, 1, width, height, low, high)


def video_size(model: Architecture, width: int, height: int, frames: int, limits: Mapping[str, Any]) -> MediumSize:
    """A video of `frames` frames of `width` x `height` pixels."""
    if model.family == "llava_onevision":
        side = _side(model)
        return MediumSize(frames * side**2, frames * side**2, frames * math.ceil(side / 2) ** 2 + 1)
    if model.family == "internvl":
        return _internvl(model, frames)
    low, high = FRAME_PIXELS[model.family]
    if model.family == "qwen3_vl":
        high = max(low, _pixels(limits, PIXELS[model.family])[1] // max(1, frames))
    step = section(model.config, "vision")["temporal_patch_size"]
    return _qwen(model, math.ceil(frames / step), width, height, low, high)


def _side(model: Architecture) -> int:
    vision = section(model.config, "vision")
    return int(pair(vision["image_size"])[0] // pair(vision["patch_size"])[0])


def _llava_image(model: Architecture, width: int, height: int, limits: Mapping[str, Any]) -> MediumSize:
    pinpoints = model.config.get("image_grid_pinpoints") or limits.get("image_grid_pinpoints") or PINPOINTS
    size, side = int(pair(section(model.config, "vision")["image_size"])[0]), _side(model)

    def fit(point: list[int]) -> tuple[int, int]:
        scale = min(point[1] / width, point[0] / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        return shown, shown - point[0] * point[1]

    rows, columns = (length // size for length in max(pinpoints, key=fit))
    patches = (1 + rows * columns) * side**2
    high, wide = rows * side, columns * side
    if width / height > wide / high:  # the processor removes the padding again
        high -= 2 * ((high - int(round(height * wide / width, 7))) // 2)
    else:
        wide -= 2 * ((wide - int(round(width * high / height, 7))) // 2)
    shrink = math.sqrt(high * wide / (ANYRES_TILES * side**2))
    if shrink > 1.1:
        high, wide = int(high / shrink), int(wide / shrink)
    return MediumSize(patches, patches, side**2 + high * (wide + 1))


def _internvl(model: Architecture, tiles: int) -> MediumSize:
    side = _side(model)
    merged = int((side * model.config.get("downsample_ratio", 0.5)) ** 2)
    return MediumSize(tiles * (side**2 + 1), tiles * side**2, tiles * merged)


def _crops(width: int, height: int, limits: Mapping[str, Any]) -> int:
    """Tiles of the grid whose shape is nearest to the image's, and one of the whole image."""
    if not limits.get("crop_to_patches", True):
        return 1
    most, least = limits.get("max_patches", CROPS), limits.get("min_patches", 1)
    size = limits.get("size") or {}
    side = size.get("height", 448)
    grids = [(c, r) for c in range(1, most + 1) for r in range(1, most + 1) if least <= c * r <= most]
    best, nearest = (1, 1), math.inf
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        off = abs(width / height - columns / rows)
        if off < nearest or (off == nearest and width * height > 0.5 * side**2 * columns * rows):
            best, nearest = (columns, rows), off
    tiles = best[0] * best[1]
    return tiles if tiles == 1 else tiles + 1


def _pixels(limits: Mapping[str, Any], default: tuple[int, int]) -> tuple[int, int]:
    size = limits.get("size") or {}
    low = limits.get("min_pixels") or size.get("shortest_edge") or default[0]
    high = limits.get("max_pixels") or size.get("longest_edge") or default[1]
    return int(low), int(high)


def _qwen(model: Architecture, times: int, width: int, height: int, low: int, high: int) -> MediumSize:
    vision = section(model.config, "vision")
    patch, merge = pair(vision["patch_size"])[0], vision["spatial_merge_size"]
    factor = patch * merge
    tall, wide = max(factor, round(height / factor) * factor), max(factor, round(width / factor) * factor)
    if tall * wide > high:
        scale = math.sqrt(height * width / high)
        tall, wide = (max(factor, math.floor(length / scale / factor) * factor) for length in (height, width))
    elif tall * wide < low:
        scale = math.sqrt(low / (height * width))
        tall, wide = (math.ceil(length * scale / factor) * factor for length in (height, width))
    patches = times * (tall // patch) * (wide // patch)
    return MediumSize(patches, patches, patches // merge**2)
