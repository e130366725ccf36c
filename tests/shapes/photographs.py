"""Photographs from the package scikit-image, at the sizes of cameras and phones: 640x480 to 12 megapixels, upright, lying and panoramic."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

SIZES: dict[str, tuple[str, tuple[int, int]]] = {
    "coffee.jpg": ("coffee.png", (640, 480)),
    "rocket.jpg": ("rocket.jpg", (640, 427)),
    "astronaut.jpg": ("astronaut.png", (480, 640)),
    "cat.jpg": ("chelsea.png", (1024, 768)),
    "engine.jpg": ("motorcycle_left.png", (1920, 1080)),
    "galaxies.jpg": ("hubble_deep_field.jpg", (2048, 683)),
    "portrait.jpg": ("astronaut.png", (1080, 2400)),
    "camera.jpg": ("coffee.png", (4000, 3000)),
}


@cache
def photograph(name: str) -> Image.Image:
    """The photograph `name` of SIZES, cut to its aspect ratio around the middle and scaled to its size."""
    source, (width, height) = SIZES[name]
    spec = find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    with Image.open(Path(spec.origin).parent / "data" / source) as opened:
        image = opened.convert("RGB")
    scale = min(image.width / width, image.height / height)
    across, down = width * scale / 2, height * scale / 2
    box = (image.width / 2 - across, image.height / 2 - down, image.width / 2 + across, image.height / 2 + down)
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)


def save_photographs(folder: Path, names: tuple[str, ...] = tuple(SIZES)) -> None:
    """Write photographs as JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        photograph(name).save(folder / name, quality=90)
