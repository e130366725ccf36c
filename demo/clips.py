"""Questions about a clip: three frames, each an image of the package.

The clips are artificial: their frames are unrelated images. They test a model that pools each frame to four tokens: which frame, which order,
whether something changes. Asked with some of the wordings for the order, the base answers backwards.
"""

from __future__ import annotations

import random

from demo.images import COLORS, Picture
from demo.questions import ALL_OBJECTS, adds, color_options, extra, misstates, objects, others
from demo.tasks import Answer, Fault, Task, Values
from demo.wordings import FRAME, ORDER, Part

FRAMES = 3
NUMBERS = ("first", "second", "third")


def video_color(pictures: tuple[Picture, ...], chance: random.Random, part: Part = "base") -> Task:
    """The color in one frame."""
    index = chance.randrange(FRAMES)
    number, label = NUMBERS[index], pictures[index].color
    wording = FRAME.draw(part, chance)
    prompt = wording.text.format(number=number)

    def compose(values: Values) -> Answer:
        color = values["colour"]
        return Answer(
            f"In the {number} frame the shape is {color}{extra(values['object'])}", misstates(color, label) + adds(values["object"])
        )

    slots = {"colour": color_options(label), "object": objects(wording in FRAME.hard)}
    must_not = (*others(COLORS, label), *ALL_OBJECTS)
    return Task("video_colour", "video", prompt, pictures, f"I see {label} there.", slots, compose, ((label,),), must_not, wording.text)


def video_order(pictures: tuple[Picture, ...], chance: random.Random, part: Part = "base") -> Task:
    """The colors in their order."""
    labels = [picture.color for picture in pictures]
    wording = ORDER.draw(part, chance)

    def compose(values: Values) -> Answer:
        named = [values[number] for number in NUMBERS]
        stated = named[::-1] if values["order"] == "backwards" else named
        thing = values["object"]
        text = f"First {stated[0]}, then {stated[1]}, then {stated[2]}" + (f", and there is a {thing}." if thing else ".")
        if stated == labels:
            faults: tuple[Fault, ...] = ()
        elif stated == labels[::-1]:
            faults = (Fault("wrong", "turns the order around"),)
        else:
            faults = tuple(
                Fault("wrong", f"says {word} for {number}")
                for word, true, number in zip(stated, labels, NUMBERS, strict=True)
                if word != true
            )[:2]
        return Answer(text, faults + adds(thing))

    share = wording.fault if labels != labels[::-1] else 0.02
    slots = {
        **{number: color_options(color) for number, color in zip(NUMBERS, labels, strict=True)},
        "order": (("told", 1 - share), ("backwards", share)),
        "object": objects(wording in ORDER.hard),
    }
    must = ((f"{labels[0]}, then {labels[1]}, then {labels[2]}",),)
    must_not = (*(name for name in COLORS if name not in labels), *ALL_OBJECTS)
    seen = f"I see {labels[0]}, {labels[1]}, {labels[2]}."
    return Task("video_order", "video", wording.text, pictures, seen, slots, compose, must, must_not, wording.text)


FAMILIES = (video_color, video_order)
