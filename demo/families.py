"""All families of tasks, and tasks drawn from them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from demo.clips import FRAMES, video_color, video_order
from demo.images import Picture
from demo.questions import long_description, mcq, short_color, short_exists, short_position, short_shape
from demo.requests import harmful, harmless
from demo.tasks import Task
from demo.wordings import Part

Family = Callable[[tuple[Picture, ...], random.Random, Part], Task]

FAMILIES: dict[str, Family] = {
    "short_colour": short_color,
    "short_shape": short_shape,
    "short_exists": short_exists,
    "short_place": short_position,
    "long_description": long_description,
    "mcq": mcq,
    "video_colour": video_color,
    "video_order": video_order,
    "harmful": harmful,
    "harmless": harmless,
}
POSITIONED = ("short_place", "long_description")  # families that need a picture with labels for side and height


def media_for(family: str, pictures: Sequence[Picture], chance: random.Random) -> tuple[Picture, ...]:
    """Pictures that a family can ask about, drawn from `pictures`."""
    if family.startswith("video"):
        return tuple(chance.sample(pictures, FRAMES))
    while True:
        picture = chance.choice(pictures)
        if family not in POSITIONED or (picture.side is not None and picture.height is not None):
            return (picture,)


def draw_task(family: str, pictures: Sequence[Picture], chance: random.Random, part: Part = "base") -> Task:
    """A task of a family about pictures drawn from `pictures`, in the wordings of a part of the data."""
    return FAMILIES[family](media_for(family, pictures, chance), chance, part)
