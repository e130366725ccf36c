"""Bounds on media that a hostile file can't pass: checked on headers, before anything is decoded.

A JPEG may state its picture in any number of scans, each of which costs a pass over all pixels for a few bytes of file.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from PIL import Image

MAX_IMAGE_BYTES = 256 * 2**20
MAX_ASPECT = 200  # beyond it, tiling leaves one side without a patch

_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}  # JPEG markers without a length
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF markers
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9


class MediaError(ValueError):
    """A medium that can't be used: the kind of fault for counts, and a reason that follows its name ("is empty")."""

    def __init__(self, kind: str, reason: str, member: str = "") -> None:
        super().__init__(f"{member} {reason}" if member else reason)
        self.kind, self.reason, self.member = kind, reason, member  # member: the frame's name in its folder, "" for the medium itself


@dataclass(frozen=True)
class MediaBounds:
    """The most that a medium may have; each field is a setting of section `validate`, which messages name."""

    pixels: int = 64_000_000  # of one picture
    media_pixels: int = 128_000_000  # of all frames of a folder, each as large as its first, and each as large as it is
    frames: int = 512
    scans: int = 64  # of a JPEG
    seconds: float = 1.0  # of CPU time, to read a medium
    gigabytes: float = 1.0  # of memory, to read a medium

    def check_size(self, width: int, height: int) -> None:
        """Raises MediaError for too many pixels, or a picture that no processor can tile."""
        if width * height > self.pixels:
            raise MediaError("media_too_large", f"has {width} x {height} pixels, more than validate.max_pixels {self.pixels}")
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise MediaError("media_too_large", f"is {width} x {height} pixels: one side is more than {MAX_ASPECT} times the other")

    def check_picture(self, image: Image.Image, content: bytes | mmap.mmap) -> None:
        """`check_size`, and the scans of a JPEG. `image` has its header read, `content` is its file."""
        self.check_size(*image.size)
        if image.format in {"JPEG", "MPO"} and count_scans(content, self.scans) > self.scans:
            raise MediaError("media_too_large", f"is a JPEG of more than validate.max_scans {self.scans} scans: save it as a plain JPEG")

    def check_frames(self, sizes: list[tuple[int, int]]) -> None:
        """Raises MediaError for a folder whose frames have too many pixels together."""
        width, height = sizes[0]
        total = max(len(sizes) * width * height, sum(width * height for width, height in sizes))
        if total > self.media_pixels:
            raise MediaError(
                "media_too_large",
                f"has {len(sizes)} frames of {total} pixels together, more than validate.max_media_pixels {self.media_pixels}: "
                "take fewer or smaller frames",
            )


def count_scans(content: bytes | mmap.mmap, limit: int) -> int:
    """Scans of the (first) picture of a JPEG file, counted up to `limit` + 1.

    Only the headers before the first scan are walked: a decoder reads further scans only where that one is progressive or lacks components.
    """
    position, components, progressive = 2, 0, False
    while position + 4 <= len(content):
        if content[position] != 0xFF:
            return 1
        marker = content[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _WITHOUT_LENGTH:
            position += 2
            continue
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        if marker in _FRAMES and position + 10 <= len(content):
            components, progressive = content[position + 9], marker in _PROGRESSIVE
        if marker == _START_OF_SCAN:
            whole = position + 4 < len(content) and content[position + 4] >= components
            return 1 if whole and not progressive else _later_scans(content, position, limit)
        position += 2 + length
    return 1


def _later_scans(content: bytes | mmap.mmap, first: int, limit: int) -> int:
    end = content.find(bytes([0xFF, _END_OF_IMAGE]), first)
    end = len(content) if end < 0 else end
    count, position = 0, first
    while 0 <= position < end and count <= limit:
        count += 1
        position = content.find(bytes([0xFF, _START_OF_SCAN]), position + 2)
    return count
