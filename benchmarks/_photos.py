"""Near-duplicates of photographs, and other photos of the same scenes: what `benchmarks.data` measures fingerprints of pictures on.

A scene is a part of a photograph from scikit-image's and scikit-learn's wheels. Its near-duplicates are the scene resized, compressed or cropped a
little; another photo of it is a part of the same photograph, moved by a fifth of its side or more.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
LEAST_SIDE = 200  # pixels of a photograph
MOVED = 0.2  # of a scene's side, at least, between two photos of it
KINDS = ("resized", "compressed", "cropped")


@dataclass(frozen=True)
class Scene:
    """A picture, its near-duplicates by kind, and another photo of the same scene."""

    picture: Image.Image
    copies: dict[str, Image.Image]
    other: Image.Image


def scenes(count: int, seed: int) -> Iterator[Scene]:
    """Scenes of photographs chosen at random."""
    photos, random = photographs(), np.random.default_rng(seed)
    for _ in range(count):
        photo, share = photos[random.integers(len(photos))], random.uniform(0.5, 0.75)
        size = (int(photo.width * share), int(photo.height * share))
        while True:
            # From a corner in the middle of its range, no other is far enough.
            corner, moved = _corner(photo, size, random), _corner(photo, size, random)
            if abs(corner[0] - moved[0]) > MOVED * size[0] or abs(corner[1] - moved[1]) > MOVED * size[1]:
                break
        picture = _part(photo, corner, size)
        yield Scene(picture, _copies(picture, random), _compressed(_part(photo, moved, size), random))


def photographs() -> list[Image.Image]:
    """The photographs of the installed wheels."""
    files = []
    for package, folder in FOLDERS.items():
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        files += sorted(path for path in (Path(spec.origin).parent / folder).iterdir() if path.suffix in {".jpg", ".png"})
    photos = [Image.open(file).convert("RGB") for file in files]
    return [photo for photo in photos if min(photo.size) >= LEAST_SIDE]


def _copies(picture: Image.Image, random: np.random.Generator) -> dict[str, Image.Image]:
    scale, width, height = random.uniform(0.5, 2), *picture.size
    left, above = (int(0.05 * side * random.random()) for side in picture.size)
    return {
        "resized": picture.resize((max(8, int(width * scale)), max(8, int(height * scale))), Image.Resampling.BICUBIC),
        "compressed": _compressed(picture, random),
        "cropped": _part(picture, (left, above), (int(0.95 * width), int(0.95 * height))),
    }


def _corner(photo: Image.Image, size: tuple[int, int], random: np.random.Generator) -> tuple[int, int]:
    return int(random.random() * (photo.width - size[0])), int(random.random() * (photo.height - size[1]))


def _part(photo: Image.Image, corner: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    return photo.crop((*corner, corner[0] + size[0], corner[1] + size[1]))


def _compressed(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=int(random.integers(40, 96)))
    return Image.open(stream).convert("RGB")
