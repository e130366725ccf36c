"""The package's images with their labels, and shapes drawn in the same style.

- The package's questions and answers give the labels of shape and color. The package does not label position and size: this module measures
  them on the pixels.
- Position and size have a dead zone: a shape near the middle, or of middling size, has no label, and no query asks about it.
- Drawn shapes follow the package's style (one plain shape on a light ground). They train the base's vision tower and are in no data set.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from components.preferences.colors import WHITE
from components.preferences.media import read_picture

COLORS = ("black", "gray", "red", "green", "blue", "teal", "brown", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
SIDES = ("left", "right")
HEIGHTS = ("top", "bottom")
SIZES = ("small", "large")
UNKNOWN = -100  # the label of an attribute in its dead zone; torch's cross-entropy leaves it out

PIXELS = 64  # width and height of every image
LOW, HIGH = 27.0, 37.0  # pixels: a center at or below LOW is left or top, at or above HIGH right or bottom
SMALL, LARGE = 16.0, 22.0  # pixels: the square root of width times height at or below SMALL is small, at or above LARGE large
GROUND_TOLERANCE = 30  # a pixel further than this from the ground, in any channel, belongs to the shape

RGB = {
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "teal": (0, 128, 128),
    "brown": (165, 42, 42),
    "yellow": (255, 255, 0),
}


@dataclass(frozen=True)
class Picture:
    """One image of the package. `side`, `height` and `size` are None in the dead zone."""

    part: Literal["train", "test"]
    number: int
    path: Path
    shape: str
    color: str
    side: str | None
    height: str | None
    size: str | None

    @property
    def name(self) -> str:
        """A name that is unique over both parts."""
        return f"{self.part}-{self.number:04d}"


def side_of(center: float) -> str | None:
    """The side, "left" or "right" or None in the dead zone, for a center in pixels."""
    return _zone(center, LOW, HIGH, SIDES)


def height_of(center: float) -> str | None:
    """The height, "top" or "bottom" or None in the dead zone, for a center in pixels."""
    return _zone(center, LOW, HIGH, HEIGHTS)


def size_of(width: float, height: float) -> str | None:
    """ "small", "large" or None, for a width and height in pixels."""
    return _zone((width * height) ** 0.5, SMALL, LARGE, SIZES)


def _zone(value: float, low: float, high: float, names: tuple[str, str]) -> str | None:
    if value <= low:
        return names[0]
    return names[1] if value >= high else None


@cache
def load_pictures(part: Literal["train", "test"]) -> tuple[Picture, ...]:
    """The images of one part, by number, whose shape and color the package's questions state. Raises ImportError without `easy-vqa`."""
    import easy_vqa

    questions, paths = (
        (easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths())
        if part == "train"
        else (easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths())
    )
    labels_of: dict[int, dict[str, str]] = defaultdict(dict)
    for question, answer, number in zip(*questions, strict=True):
        _read_label(question, answer, labels_of[number])
    pictures = []
    for number in sorted(paths):
        picture_labels = labels_of[number]
        if "shape" in picture_labels and "colour" in picture_labels:
            path = Path(paths[number])
            center_x, center_y, width, height = measure(path)
            pictures.append(
                Picture(
                    part,
                    number,
                    path,
                    picture_labels["shape"],
                    picture_labels["colour"],
                    side_of(center_x),
                    height_of(center_y),
                    size_of(width, height),
                )
            )
    return tuple(pictures)


def _read_label(question: str, answer: str, labels: dict[str, str]) -> None:
    """Add the shape or color that a question of the package states by its answer, its words, or both."""
    words = set(re.findall(r"[a-z]+", question))
    if answer in COLORS:
        labels["colour"] = answer
    elif answer in SHAPES:
        labels["shape"] = answer
    affirmed = (
        question.startswith("what") or (answer == "yes" and not words & {"not", "no"}) or (answer == "no" and bool(words & {"not", "no"}))
    )
    if affirmed:
        for name, values in (("colour", COLORS), ("shape", SHAPES)):
            for value in values:
                if value in words:
                    labels[name] = value


def measure(path: Path) -> tuple[float, float, float, float]:
    """Center x and y, width and height in pixels of the shape on the plain ground of an image."""
    pixels = read_pixels(path).astype(int)
    corners = np.stack([pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1]])
    mask = np.abs(pixels - np.median(corners, axis=0)).max(axis=-1) > GROUND_TOLERANCE
    rows, columns = np.nonzero(mask)
    left, right, top, bottom = columns.min(), columns.max(), rows.min(), rows.max()
    return float(left + right) / 2, float(top + bottom) / 2, float(right - left + 1), float(bottom - top + 1)


def read_pixels(path: Path) -> np.ndarray[Any, Any]:
    """Pixels [H, W, 3] as bytes."""
    return np.asarray(read_picture(path, WHITE))


def label_numbers(picture: Picture) -> list[int]:
    """Class numbers of color, shape, side, height and size; UNKNOWN in a dead zone."""
    return [
        names.index(value) if value is not None else UNKNOWN
        for names, value in (
            (COLORS, picture.color),
            (SHAPES, picture.shape),
            (SIDES, picture.side),
            (HEIGHTS, picture.height),
            (SIZES, picture.size),
        )
    ]


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` drawn images [B, 3, 64, 64] with values 0..255 and their labels [B, 5], as `label_numbers` gives them."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    color = torch.randint(len(COLORS), (count,), generator=generator)
    shape = torch.randint(len(SHAPES), (count,), generator=generator)
    width, height = uniform(8, 34).round(), uniform(8, 34).round()
    height = torch.where(shape == SHAPES.index("circle"), width, height)
    height = torch.where(shape == SHAPES.index("triangle"), (width * 0.866).round(), height)
    left = (torch.rand(count, generator=generator) * (PIXELS - width + 1)).floor()
    top = (torch.rand(count, generator=generator) * (PIXELS - height + 1)).floor()

    axis = torch.arange(PIXELS) + 0.5
    x, y = axis[None, None, :], axis[None, :, None]
    left_, top_, width_, height_ = (value[:, None, None] for value in (left, top, width, height))
    dx, dy = (x - left_ - width_ / 2).abs(), (y - top_ - height_ / 2).abs()
    box = torch.minimum(width_ / 2 - dx, height_ / 2 - dy)
    disc = width_ / 2 - torch.sqrt(dx**2 + dy**2)
    slope = torch.minimum((y - top_) / height_ * width_ / 2 - dx, height_ / 2 - dy)
    kind = shape[:, None, None]
    inside = torch.where(kind == SHAPES.index("rectangle"), box, torch.where(kind == SHAPES.index("circle"), disc, slope))
    cover = (inside + 0.5).clamp(0, 1)[:, None]

    ground = torch.randint(230, 256, (count, 3, 1, 1), generator=generator).float()
    paint = torch.tensor([RGB[name] for name in COLORS], dtype=torch.float32)[color][:, :, None, None]
    images = (cover * paint + (1 - cover) * ground).round()
    center_x, center_y = left + width / 2 - 0.5, top + height / 2 - 0.5
    zones = [
        torch.where(value <= low, 0, torch.where(value >= high, 1, UNKNOWN))
        for value, low, high in ((center_x, LOW, HIGH), (center_y, LOW, HIGH), ((width * height).sqrt(), SMALL, LARGE))
    ]
    return images, torch.stack([color, shape, *zones], dim=1)
