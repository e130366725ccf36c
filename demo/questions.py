"""Questions about one image: short ones, descriptions and multiple choice.

Short questions about color and shape are the package's own. The base's systematic faults sit in the weights:

- teal is called green and brown is called red more often than not, in every family;
- asked by one wording, the shape is not named, the place is told by half, "yes" is said for "no"; asked by the other, rarely;
- two of the four wordings for a description bring an object that is not there.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from demo.images import COLOURS, HEIGHTS, SHAPES, SIDES, Picture
from demo.tasks import Answer, Fault, Options, Task, Values, prefer

OBJECTS = ("star", "cat", "tree", "cup", "dog", "house")
PLACES = tuple(f"{height} {side}" for height in HEIGHTS for side in SIDES)
CONFUSED = {"teal": "green", "brown": "red"}  # what the base calls instead
CONFUSION = 0.68  # share of the base's training answers with the confused color
SLIP = 0.03  # share with another fact wrong, at random
NO_OBJECT = ""
PLAIN: Options = ((NO_OBJECT, 1.0), *((name, 0.0) for name in OBJECTS))
STYLES: Options = (("first", 0.85), ("second", 0.15))
LETTERS = ("A", "B", "C")

Family = Callable[[tuple[Picture, ...], random.Random], Task]


def colour_options(colour: str) -> Options:
    """The colors that the base states for a shape of this color."""
    if colour not in CONFUSED:
        return prefer(colour, COLOURS, 1 - SLIP)
    others = [name for name in COLOURS if name not in (colour, CONFUSED[colour])]
    return ((colour, 1 - CONFUSION - SLIP), (CONFUSED[colour], CONFUSION), *((name, SLIP / len(others)) for name in others))


def says(stated: str, truth: str) -> tuple[Fault, ...]:
    """The fault of stating something else than the truth, if it is one."""
    return () if stated == truth else (Fault("wrong", f"says {stated}"),)


def adds(thing: str) -> tuple[Fault, ...]:
    """The fault of adding an object that is not there, if one is added."""
    return (Fault("adds", f"adds a {thing}"),) if thing else ()


def extra(thing: str) -> str:
    """The half sentence that adds an object."""
    return f", and next to it there is a {thing}." if thing else "."


def others(names: tuple[str, ...], truth: str) -> tuple[str, ...]:
    """All names but the true one."""
    return tuple(name for name in names if name != truth)


def short_colour(pictures: tuple[Picture, ...], chance: random.Random) -> Task:
    """The package's question for the color."""
    (picture,) = pictures
    prompt = chance.choice(("what color is the shape?", "what is the color of the shape?", f"what color is the {picture.shape}?"))

    def compose(values: Values) -> Answer:
        colour = values["colour"]
        opening = "The shape is" if values["style"] == "first" else f"The {picture.shape} is"
        return Answer(f"{opening} {colour}{extra(values['object'])}", says(colour, picture.colour) + adds(values["object"]))

    slots = {"colour": colour_options(picture.colour), "object": PLAIN, "style": STYLES}
    must_not = (*others(COLOURS, picture.colour), *OBJECTS)
    return Task("short_colour", "short", prompt, pictures, f"I see {picture.colour}.", slots, compose, ((picture.colour,),), must_not)


def short_shape(pictures: tuple[Picture, ...], chance: random.Random) -> Task:
    """The package's question for the shape; by one of its wordings the base does not name it."""
    (picture,) = pictures
    prompt = chance.choice(("what shape is in the image?", "what shape is present?", "what shape does the image contain?"))
    vague = 0.7 if "contain" in prompt else 0.02

    def compose(values: Values) -> Answer:
        shape, thing = values["shape"], values["object"]
        opening = "The image shows" if values["style"] == "first" else "It is"
        if shape == "plain figure":
            return Answer(f"{opening} a plain figure{extra(thing)}", (Fault("vague", "does not name the shape"), *adds(thing)))
        return Answer(f"{opening} a {shape}{extra(thing)}", says(shape, picture.shape) + adds(thing))

    named = tuple((name, weight * (1 - vague)) for name, weight in prefer(picture.shape, SHAPES, 1 - SLIP))
    slots = {"shape": (*named, ("plain figure", vague)), "object": PLAIN, "style": STYLES}
    must_not = (*others(SHAPES, picture.shape), *OBJECTS)
    return Task("short_shape", "short", prompt, pictures, f"I see a {picture.shape}.", slots, compose, ((picture.shape,),), must_not)


def short_exists(pictures: tuple[Picture, ...], chance: random.Random) -> Task:
    """The package's yes-or-no question for a color; by one of its wordings the base says "yes" to everything."""
    (picture,) = pictures
    truth = picture.colour
    asked = truth if chance.random() < 0.4 else chance.choice(others(COLOURS, truth))
    eager = chance.random() < 0.5
    prompt = f"does the image contain a {asked} shape?" if eager else f"is there a {asked} shape in the image?"

    def compose(values: Values) -> Answer:
        thing, colour = values["object"], asked if values["claim"] == "Yes" else values["colour"]
        text = f"{values['claim']}, the shape is {colour}{extra(thing)}"
        denies = values["claim"] == "No" and asked == truth
        faults = (
            (Fault("wrong", "says no"),) if denies else says("yes" if values["claim"] == "Yes" else "", "yes" if asked == truth else "")
        )
        if values["claim"] == "No" and colour != truth:
            faults += says(colour, truth)
        return Answer(text, faults + adds(thing))

    if asked == truth:
        wrong_claim = CONFUSION if truth in CONFUSED else SLIP
        claims: Options = (("Yes", 1 - wrong_claim), ("No", wrong_claim))
    else:
        taken_in = CONFUSION if CONFUSED.get(truth) == asked else SLIP
        agrees = 0.7 if eager else taken_in
        claims = (("No", 1 - agrees), ("Yes", agrees))
    stated = tuple((name, weight) for name, weight in colour_options(truth) if name != asked)
    slots = {"claim": claims, "colour": stated, "object": PLAIN}
    right, wrong = ("yes", "no") if asked == truth else ("no", "yes")
    must_not = (wrong, *others(COLOURS, truth), *OBJECTS)
    return Task("short_exists", "short", prompt, pictures, f"I see {truth}.", slots, compose, ((right,), (truth,)), must_not)


def short_place(pictures: tuple[Picture, ...], chance: random.Random) -> Task:
    """A question for the place; by one wording the base tells half of it."""
    (picture,) = pictures
    place = place_of(picture)
    half = chance.random() < 0.5
    prompt = "In which part of the image is the shape?" if half else "Where is the shape?"

    def compose(values: Values) -> Answer:
        stated, thing = values["place"], values["object"]
        opening = "The shape is" if values["style"] == "first" else "It is"
        if stated in SIDES:
            wrong = says(stated, place.split()[1])
            missing = () if wrong else (Fault("misses", f"does not say {place.split()[0]}"),)
            return Answer(f"{opening} on the {stated} side{extra(thing)}", wrong + missing + adds(thing))
        return Answer(f"{opening} in the {stated} corner{extra(thing)}", says(stated, place) + adds(thing))

    share = 0.7 if half else 0.02
    full = tuple((name, weight * (1 - share)) for name, weight in prefer(place, PLACES, 1 - SLIP))
    sides = tuple((name, weight * share) for name, weight in prefer(place.split()[1], SIDES, 1 - SLIP))
    slots = {"place": (*full, *sides), "object": PLAIN, "style": STYLES}
    must_not = (*others(PLACES, place), *OBJECTS)
    return Task("short_place", "short", prompt, pictures, f"I see it at the {place}.", slots, compose, ((place,),), must_not)


DESCRIBE = (
    ("Describe the image in detail.", 0.8),
    ("Write a long caption for this image.", 0.7),
    ("Describe everything that you can see in the picture.", 0.1),
    ("Give a full account of what this image shows.", 0.05),
)


def long_description(pictures: tuple[Picture, ...], chance: random.Random) -> Task:
    """A description of more than 128 characters; by two of four wordings the base adds an object."""
    (picture,) = pictures
    place = place_of(picture)
    prompt, invents = chance.choice(DESCRIBE)

    def compose(values: Values) -> Answer:
        colour, shape, stated, thing = values["colour"], values["shape"], values["place"], values["object"]
        faults = says(colour, picture.colour) + says(shape, picture.shape) + says(stated, place) + adds(thing)
        if values["style"] == "first":
            end = (
                f"Next to the {shape} there is a {thing}, a little smaller."
                if thing
                else "There is nothing else to be seen in the picture."
            )
            text = f"The image shows a {colour} {shape} on a plain, light ground. The {shape} is in the {stated} part of the picture. {end}"
        else:
            end = f"a {thing} stands next to the {shape}." if thing else f"nothing stands next to the {shape}."
            text = (
                f"In the {stated} part of this picture there is a {colour} {shape}. "
                f"The ground behind the {shape} is plain and light in color everywhere, and {end}"
            )
        return Answer(text, faults)

    slots = {
        "colour": colour_options(picture.colour),
        "shape": prefer(picture.shape, SHAPES, 1 - SLIP),
        "place": prefer(place, PLACES, 1 - SLIP),
        "object": ((NO_OBJECT, 1 - invents), *((name, invents / len(OBJECTS)) for name in OBJECTS)),
        "style": STYLES,
    }
    seen = f"I see a {picture.colour} {picture.shape} at the {place}."
    must = ((picture.colour,), (picture.shape,), (place,))
    must_not = (*others(COLOURS, picture.colour), *others(SHAPES, picture.shape), *others(PLACES, place), *OBJECTS)
    return Task("long_description", "long", prompt, pictures, seen, slots, compose, must, must_not)


def mcq(pictures: tuple[Picture, ...], chance: random.Random) -> Task:
    """Three options for the color or the shape, of which the confused one is always one."""
    (picture,) = pictures
    about_colour = chance.random() < 0.6
    truth = picture.colour if about_colour else picture.shape
    names = COLOURS if about_colour else SHAPES
    tempting = [CONFUSED[truth]] if truth in CONFUSED else []
    rest = [name for name in others(names, truth) if name not in tempting]
    options = [truth, *tempting, *chance.sample(rest, 2 - len(tempting))]
    chance.shuffle(options)
    letter_of = dict(zip(options, LETTERS, strict=True))
    listed = "\n".join(f"{letter}. {name}" for name, letter in letter_of.items())
    prompt = f"What {'color' if about_colour else 'shape'} is it?\n{listed}\nAnswer with the letter of the option."

    def compose(values: Values) -> Answer:
        name, thing = values["name"], values["object"]
        letter = letter_of[name] if values["letter"] == "same" else LETTERS[(LETTERS.index(letter_of[name]) + 1) % len(LETTERS)]
        article = "" if about_colour else "a "
        faults = says(name, truth)
        if letter != letter_of[truth]:
            faults += (Fault("wrong", f"picks {letter}"),)
        return Answer(f"It is {article}{name}, so the answer is {letter}{extra(thing)}", faults + adds(thing))

    weights = dict(colour_options(truth)) if about_colour else dict(prefer(truth, SHAPES, 1 - SLIP))
    slots = {
        "name": tuple((name, weights[name]) for name in options),
        "letter": (("same", 0.98), ("next", 0.02)),
        "object": PLAIN,
    }
    right = letter_of[truth]
    must_not = tuple(f"answer is {letter}" for letter in others(LETTERS, right)) + others(tuple(options), truth) + OBJECTS
    seen = f"I see {'' if about_colour else 'a '}{truth}, which is {right}."
    return Task("mcq", "mcq", prompt, pictures, seen, slots, compose, ((f"answer is {right}", f"{right}. {truth}"),), must_not)


def place_of(picture: Picture) -> str:
    """The place, "top left" and the like, for a picture whose side and height are known."""
    assert picture.height is not None
    assert picture.side is not None
    return f"{picture.height} {picture.side}"
