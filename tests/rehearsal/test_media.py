"""Patches and tokens against the families' own processors, for images of many shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from components.rehearsal.architectures import PUBLISHED
from components.rehearsal.media import image_size, video_size
from components.rehearsal.parameters import architecture

SIZES = [(640, 480), (480, 640), (1024, 1024), (2048, 500), (300, 1900), (64, 64), (1700, 1300)]


def pixels(width: int, height: int) -> Any:
    return np.zeros((height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_llava_onevision_tiles_and_tokens(width: int, height: int) -> None:
    from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionProcessor

    model = architecture(PUBLISHED["llava-onevision-qwen2-7b-ov-hf"])
    tiles = LlavaOnevisionImageProcessor()(images=[pixels(width, height)], return_tensors="pt")["pixel_values"].shape[1]
    counter = LlavaOnevisionProcessor.__new__(LlavaOnevisionProcessor)
    counter.image_processor = LlavaOnevisionImageProcessor()
    counter.vision_aspect_ratio = "anyres_max_9"
    counter.num_image_tokens, counter.vision_feature_select_strategy = 729, "full"
    tokens = counter._get_number_of_features(height, width, 384, 384)
    size = image_size(model, width, height, {})
    assert size.patches == size.cached == tiles * 729
    assert size.tokens == tokens


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", ["Qwen2-VL-7B-Instruct", "Qwen3-VL-8B-Instruct"])
def test_qwen_patches(name: str, width: int, height: int) -> None:
    from transformers import Qwen2VLImageProcessor

    model = architecture(PUBLISHED[name])
    limits: dict[str, Any] = {"size": {"shortest_edge": 56 * 56, "longest_edge": 1280 * 28 * 28}}
    patch = 16 if name.startswith("Qwen3") else 14
    processor = Qwen2VLImageProcessor(**limits, patch_size=patch)
    grid = processor(images=[pixels(width, height)], return_tensors="pt")["image_grid_thw"][0]
    size = image_size(model, width, height, limits)
    assert size.patches == int(grid.prod())
    assert size.tokens == int(grid.prod()) // 4


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_internvl_tiles(width: int, height: int) -> None:
    from transformers import GotOcr2ImageProcessor

    model = architecture(PUBLISHED["InternVL3-1B-hf"])
    processor = GotOcr2ImageProcessor(size={"height": 448, "width": 448}, crop_to_patches=True, min_patches=1, max_patches=12)
    tiles = len(processor(images=[pixels(width, height)], return_tensors="pt")["pixel_values"])
    size = image_size(model, width, height, {})
    assert size.patches == tiles * 1025
    assert size.tokens == tiles * 256


def test_video_tokens_follow_frames() -> None:
    llava, internvl = (architecture(PUBLISHED[name]) for name in ("llava-onevision-qwen2-7b-ov-hf", "InternVL3-1B-hf"))
    assert video_size(llava, 640, 480, 8, {}).tokens == 8 * 14 * 14 + 1
    assert video_size(internvl, 640, 480, 8, {}).patches == 8 * 1025
