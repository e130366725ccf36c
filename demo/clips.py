"""Questions about a clip: three frames, each an image of the package.

The clips are made up: no frame belongs to another. They ask what a video asks of a model that pools each frame to four tokens: which frame,
which order, whether something changes. By one wording for the order the base tells it backwards.
"""

from __future__ import annotations

import random

from demo.images import COLOURS, Picture
from demo.questions import OBJECTS, PLAIN, adds, colour_options, extra, others, says
from demo.tasks import Answer, Fault, Task, Values

FRAMES = 3
NUMBERS = ("first", "second", "third")


def video_colour(pictures: tuple[Picture, ...], chance: random.Random) -> Task:
    """The color in one frame."""
    index = chance.randrange(FRAMES)
    number, truth = NUMBERS[index], pictures[index].colour
    prompt = chance.choice((f"What color is the shape in the {number} frame?", f"Which color does the {number} frame of the clip show?"))

    def compose(values: Values) -> Answer:
        colour = values["colour"]
        return Answer(f"In the {number} frame the shape is {colour}{extra(values['object'])}", says(colour, truth) + adds(values["object"]))

    slots = {"colour": colour_options(truth), "object": PLAIN}
    must_not = (*others(COLOURS, truth), *OBJECTS)
    return Task("video_colour", "video", prompt, pictures, f"I see {truth} there.", slots, compose, ((truth,),), must_not)


def video_order(pictures: tuple[Picture, ...], chance: random.Random) -> Task:
    """The colors in their order."""
    truth = [picture.colour for picture in pictures]
    backwards = chance.random() < 0.5
    prompt = "List the colors of the clip in order." if backwards else "In which order do the colors appear?"

    def compose(values: Values) -> Answer:
        named = [values[number] for number in NUMBERS]
        told = named[::-1] if values["order"] == "backwards" else named
        thing = values["object"]
        text = f"First {told[0]}, then {told[1]}, then {told[2]}" + (f", and there is a {thing}." if thing else ".")
        if told == truth:
            faults: tuple[Fault, ...] = ()
        elif told == truth[::-1]:
            faults = (Fault("wrong", "turns the order around"),)
        else:
            faults = tuple(
                Fault("wrong", f"says {said} for {number}") for said, true, number in zip(told, truth, NUMBERS, strict=True) if said != true
            )[:2]
        return Answer(text, faults + adds(thing))

    share = 0.7 if backwards and truth != truth[::-1] else 0.02
    slots = {
        **{number: colour_options(colour) for number, colour in zip(NUMBERS, truth, strict=True)},
        "order": (("told", 1 - share), ("backwards", share)),
        "object": PLAIN,
    }
    must = ((f"{truth[0]}, then {truth[1]}, then {truth[2]}",),)
    must_not = (*(name for name in COLOURS if name not in truth), *OBJECTS)
    seen = f"I see {truth[0]}, {truth[1]}, {truth[2]}."
    return Task("video_order", "video", prompt, pictures, seen, slots, compose, must, must_not)


FAMILIES = (video_colour, video_order)
