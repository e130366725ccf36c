from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.preferences.bounds import MediaBounds, MediaError, count_scans
from components.preferences.media import read_picture


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated, so that it has `count` scans."""
    content = jpeg(progressive=True)
    last = content.rfind(b"\xff\xda")
    own = count_scans(content, 1000)
    return content[:-2] + content[last:-2] * (count - own) + content[-2:]


@pytest.mark.parametrize(("content", "scans"), [(jpeg(), 1), (jpeg("L"), 1), (jpeg(progressive=True), 10), (with_scans(90), 90)])
def test_scans_are_counted(content: bytes, scans: int) -> None:
    assert count_scans(content, 1000) == scans


def test_thumbnail_and_second_picture_are_no_scans() -> None:
    exif = Image.Exif()
    exif[0x010E] = "A caption"
    thumbnail = jpeg(progressive=True)
    content = jpeg(progressive=True, exif=b"Exif\0\0" + thumbnail)
    assert count_scans(content + thumbnail, 1000) == 10


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8" + b"\xff" * 50, b"\xff\xd8\xff\xe0\xff\xff", b"\xff\xd8\0\0\0\0"]
)
def test_broken_header_counts_one_scan(content: bytes) -> None:
    assert count_scans(content, 10) == 1


def test_counting_ends_past_limit() -> None:
    assert count_scans(with_scans(90), 64) == 65


def test_jpeg_of_many_scans_is_refused() -> None:
    bounds = MediaBounds()
    assert read_picture(with_scans(64), "#ffffff", bounds).size == (64, 64)
    with pytest.raises(MediaError, match="max_scans 64"):
        read_picture(with_scans(65), "#ffffff", bounds)


@pytest.mark.parametrize(("size", "word"), [((101, 100), "max_pixels"), ((1, 201), "200 times")])
def test_size_past_bounds_is_refused(size: tuple[int, int], word: str) -> None:
    with pytest.raises(MediaError, match=word):
        MediaBounds(pixels=10_000).check_size(*size)


@pytest.mark.parametrize("sizes", [[(10, 10)] * 11, [(100, 10), (1, 1)], [(1, 1), (40, 40)]])
def test_frames_count_as_large_as_first_and_as_they_are(sizes: list[tuple[int, int]]) -> None:
    # Frames are letterboxed to the first one's size, so tiny ones behind a large one cost as much as it.
    MediaBounds(media_pixels=2000).check_frames(sizes)
    with pytest.raises(MediaError, match="max_media_pixels 999"):
        MediaBounds(media_pixels=999).check_frames(sizes)
