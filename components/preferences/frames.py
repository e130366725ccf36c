"""The frames of a folder: which files they are, in which order, and all of one size.

- Order: by name, numbers by their value, so that 2.png comes before 10.png.
- Hidden files and files that other programs leave in folders are no frames: STRAY_NAMES, STRAY_FOLDERS and STRAY_SUFFIXES list them.
- A frame of another size than the first is scaled to fit into it, and the rest is filled with the background. Nothing is stretched.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from PIL import Image

from components.preferences.bounds import MediaError

STRAY_NAMES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
STRAY_FOLDERS = {"__macosx", "@eadir"}
STRAY_SUFFIXES = {
    ".txt",
    ".json",
    ".jsonl",
    ".xml",
    ".csv",
    ".tsv",
    ".yaml",
    ".yml",
    ".md",
    ".srt",
    ".vtt",
    ".log",
    ".wav",
    ".mp3",
    ".aac",
    ".m4a",
}
STRAYS = 4  # entries of a folder for each allowed frame, past which it is not listed further

_NUMBER = re.compile(r"([0-9]+)")


def frame_names(folder: Path, limit: int | None = None) -> list[str]:
    """Names of the frames in `folder`, in order. Raises MediaError for more than `limit`."""
    names: list[str] = []
    entries = 0
    with os.scandir(folder) as listing:
        for entry in listing:
            entries += 1
            if not is_stray(entry.name):
                names.append(entry.name)
            if limit is not None and (len(names) > limit or entries > STRAYS * limit):
                raise MediaError(
                    "media_too_large", f"holds more than validate.max_folder_frames {limit} frames: take every second one, say"
                )
    return sorted(names, key=order)


def is_stray(name: str) -> bool:
    """Whether a file in a folder of frames is none."""
    lower = name.lower()
    return name.startswith(".") or lower in STRAY_NAMES | STRAY_FOLDERS or os.path.splitext(lower)[1] in STRAY_SUFFIXES  # noqa: PTH122 -- a name


def order(name: str) -> tuple[list[str | int], str]:
    """Sorts names by their parts, numbers by value; equal ones ("1", "01") by their text."""
    return [int(part) if number % 2 else part for number, part in enumerate(_NUMBER.split(name))], name


def frame_indices(count: int, limit: int) -> list[int]:
    """Indices of at most `limit` of `count` frames, evenly spread, first and last among them."""
    if count <= limit:
        return list(range(count))
    return [round(step * (count - 1) / (limit - 1)) for step in range(limit)] if limit > 1 else [0]


def letterbox(image: Image.Image, size: tuple[int, int], background: str) -> Image.Image:
    """`image` scaled to fit into `size`, in its middle, on the background. It is returned as it is where the sizes are equal."""
    if image.size == size:
        return image
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = max(1, min(size[0], round(image.width * scale))), max(1, min(size[1], round(image.height * scale)))
    ground = Image.new("RGB", size, background)
    ground.paste(image.resize(inner), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return ground
