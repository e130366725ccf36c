"""Questions about one image: short ones, descriptions and multiple choice.

Short questions about color and shape are the package's own. The option weights below give the base its systematic faults:

- in every family, the base calls teal green and brown red in most answers;
- for some wordings of a question, the base often omits the shape, states half the position, or answers "yes" for "no"; for others, rarely;
- for half of the wordings for a description, the base adds an object that is not in the image; the hard part has objects of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from demo.images import COLORS, HEIGHTS, SHAPES, SIDES, Picture
from demo.tasks import Answer, Fault, Options, Task, Values, prefer
from demo.wordings import CHOICE, COLOR, DESCRIBE, EXISTS, POSITION, SHAPE, Part

OBJECTS = ("star", "cat", "tree", "cup", "dog", "house")  # that faulty answers add
HARD_OBJECTS = ("bird", "boat", "lamp", "fish", "chair", "flower")  # of the hard part
ALL_OBJECTS = OBJECTS + HARD_OBJECTS
POSITIONS = tuple(f"{height} {side}" for height in HEIGHTS for side in SIDES)
CONFUSED = {"teal": "green", "brown": "red"}  # color, and the color that the base states instead
CONFUSION = 0.68  # share of the base's training answers with the confused color
SLIP = 0.03  # share with another random error
NO_OBJECT = ""
STYLES: Options = (("first", 0.85), ("second", 0.15))
LETTERS = ("A", "B", "C")

Family = Callable[[tuple[Picture, ...], random.Random, Part], Task]


def objects(hard: bool, share: float = 0.0) -> Options:
    """No object, or with the weight `share` one of the usual objects or of the hard part's."""
    names = HARD_OBJECTS if hard else OBJECTS
    return ((NO_OBJECT, 1 - share), *((name, share / len(names)) for name in names))


def color_options(color: str) -> Options:
    """The colors that the base states for a shape of this color."""
    if color not in CONFUSED:
        return prefer(color, COLORS, 1 - SLIP)
    others = [name for name in COLORS if name not in (color, CONFUSED[color])]
    return ((color, 1 - CONFUSION - SLIP), (CONFUSED[color], CONFUSION), *((name, SLIP / len(others)) for name in others))


def misstates(stated: str, label: str) -> tuple[Fault, ...]:
    """The fault of stating another value than the label; none if they are equal."""
    return () if stated == label else (Fault("wrong", f"says {stated}"),)


def adds(thing: str) -> tuple[Fault, ...]:
    """The fault of adding an object that is not in the image; none if `thing` is empty."""
    return (Fault("adds", f"adds a {thing}"),) if thing else ()


def extra(thing: str) -> str:
    """The half sentence that adds an object."""
    return f", and next to it there is a {thing}." if thing else "."


def others(names: tuple[str, ...], label: str) -> tuple[str, ...]:
    """All names but the label."""
    return tuple(name for name in names if name != label)


def short_color(pictures: tuple[Picture, ...], chance: random.Random, part: Part = "base") -> Task:
    """The package's question for the color."""
    (picture,) = pictures
    wording = COLOR.draw(part, chance)
    prompt = wording.text.format(shape=picture.shape)

    def compose(values: Values) -> Answer:
        color = values["colour"]
        opening = "The shape is" if values["style"] == "first" else f"The {picture.shape} is"
        return Answer(f"{opening} {color}{extra(values['object'])}", misstates(color, picture.color) + adds(values["object"]))

    slots = {"colour": color_options(picture.color), "object": objects(wording in COLOR.hard), "style": STYLES}
    must_not = (*others(COLORS, picture.color), *ALL_OBJECTS)
    return Task(
        "short_colour", "short", prompt, pictures, f"I see {picture.color}.", slots, compose, ((picture.color,),), must_not, wording.text
    )


def short_shape(pictures: tuple[Picture, ...], chance: random.Random, part: Part = "base") -> Task:
    """The package's question for the shape. For one of its wordings the base does not name the shape."""
    (picture,) = pictures
    wording = SHAPE.draw(part, chance)
    vague = wording.fault

    def compose(values: Values) -> Answer:
        shape, thing = values["shape"], values["object"]
        opening = "The image shows" if values["style"] == "first" else "It is"
        if shape == "plain figure":
            return Answer(f"{opening} a plain figure{extra(thing)}", (Fault("vague", "does not name the shape"), *adds(thing)))
        return Answer(f"{opening} a {shape}{extra(thing)}", misstates(shape, picture.shape) + adds(thing))

    named = tuple((name, weight * (1 - vague)) for name, weight in prefer(picture.shape, SHAPES, 1 - SLIP))
    slots = {"shape": (*named, ("plain figure", vague)), "object": objects(wording in SHAPE.hard), "style": STYLES}
    must_not = (*others(SHAPES, picture.shape), *ALL_OBJECTS)
    return Task(
        "short_shape",
        "short",
        wording.text,
        pictures,
        f"I see a {picture.shape}.",
        slots,
        compose,
        ((picture.shape,),),
        must_not,
        wording.text,
    )


def short_exists(pictures: tuple[Picture, ...], chance: random.Random, part: Part = "base") -> Task:
    """The package's yes-or-no question for a color. For one of its wordings the base answers "yes" to most."""
    (picture,) = pictures
    label = picture.color
    queried = label if chance.random() < 0.4 else chance.choice(others(COLORS, label))
    wording = EXISTS.draw(part, chance)
    prompt = wording.text.format(color=queried)

    def compose(values: Values) -> Answer:
        thing, color = values["object"], queried if values["claim"] == "Yes" else values["colour"]
        text = f"{values['claim']}, the shape is {color}{extra(thing)}"
        denies = values["claim"] == "No" and queried == label
        faults = (
            (Fault("wrong", "says no"),)
            if denies
            else misstates("yes" if values["claim"] == "Yes" else "", "yes" if queried == label else "")
        )
        if values["claim"] == "No" and color != label:
            faults += misstates(color, label)
        return Answer(text, faults + adds(thing))

    if queried == label:
        wrong_claim = CONFUSION if label in CONFUSED else SLIP
        claims: Options = (("Yes", 1 - wrong_claim), ("No", wrong_claim))
    else:
        taken_in = CONFUSION if CONFUSED.get(label) == queried else SLIP
        agrees = wording.fault or taken_in
        claims = (("No", 1 - agrees), ("Yes", agrees))
    stated = tuple((name, weight) for name, weight in color_options(label) if name != queried)
    slots = {"claim": claims, "colour": stated, "object": objects(wording in EXISTS.hard)}
    right, wrong = ("yes", "no") if queried == label else ("no", "yes")
    must_not = (wrong, *others(COLORS, label), *ALL_OBJECTS)
    return Task("short_exists", "short", prompt, pictures, f"I see {label}.", slots, compose, ((right,), (label,)), must_not, wording.text)


def short_position(pictures: tuple[Picture, ...], chance: random.Random, part: Part = "base") -> Task:
    """A question for the position. For one wording the base states half of it."""
    (picture,) = pictures
    position = position_of(picture)
    wording = POSITION.draw(part, chance)

    def compose(values: Values) -> Answer:
        stated, thing = values["place"], values["object"]
        opening = "The shape is" if values["style"] == "first" else "It is"
        if stated in SIDES:
            wrong = misstates(stated, position.split()[1])
            missing = () if wrong else (Fault("misses", f"does not say {position.split()[0]}"),)
            return Answer(f"{opening} on the {stated} side{extra(thing)}", wrong + missing + adds(thing))
        return Answer(f"{opening} in the {stated} corner{extra(thing)}", misstates(stated, position) + adds(thing))

    share = wording.fault
    full = tuple((name, weight * (1 - share)) for name, weight in prefer(position, POSITIONS, 1 - SLIP))
    sides = tuple((name, weight * share) for name, weight in prefer(position.split()[1], SIDES, 1 - SLIP))
    slots = {"place": (*full, *sides), "object": objects(wording in POSITION.hard), "style": STYLES}
    must_not = (*others(POSITIONS, position), *ALL_OBJECTS)
    return Task(
        "short_place",
        "short",
        wording.text,
        pictures,
        f"I see it at the {position}.",
        slots,
        compose,
        ((position,),),
        must_not,
        wording.text,
    )


def long_description(pictures: tuple[Picture, ...], chance: random.Random, part: Part = "base") -> Task:
    """A description of more than 128 characters. For half of the wordings the base adds an object."""
    (picture,) = pictures
    position = position_of(picture)
    wording = DESCRIBE.draw(part, chance)

    def compose(values: Values) -> Answer:
        color, shape, stated, thing = values["colour"], values["shape"], values["place"], values["object"]
        faults = misstates(color, picture.color) + misstates(shape, picture.shape) + misstates(stated, position) + adds(thing)
        if values["style"] == "first":
            end = (
                f"Next to the {shape} there is a {thing}, a little smaller."
                if thing
                else "There is nothing else to be seen in the picture."
            )
            text = f"The image shows a {color} {shape} on a plain, light ground. The {shape} is in the {stated} part of the picture. {end}"
        else:
            end = f"a {thing} stands next to the {shape}." if thing else f"nothing stands next to the {shape}."
            text = (
                f"In the {stated} part of this picture there is a {color} {shape}. "
                f"The ground behind the {shape} is plain and light in color everywhere, and {end}"
            )
        return Answer(text, faults)

    slots = {
        "colour": color_options(picture.color),
        "shape": prefer(picture.shape, SHAPES, 1 - SLIP),
        "place": prefer(position, POSITIONS, 1 - SLIP),
        "object": objects(wording in DESCRIBE.hard, wording.fault),
        "style": STYLES,
    }
    seen = f"I see a {picture.color} {picture.shape} at the {position}."
    must = ((picture.color,), (picture.shape,), (position,))
    must_not = (*others(COLORS, picture.color), *others(SHAPES, picture.shape), *others(POSITIONS, position), *ALL_OBJECTS)
    return Task("long_description", "long", wording.text, pictures, seen, slots, compose, must, must_not, wording.text)


def mcq(pictures: tuple[Picture, ...], chance: random.Random, part: Part = "base") -> Task:
    """Three options for the color or the shape; if the base confuses the color, one option is the confused color."""
    (picture,) = pictures
    about_color = chance.random() < 0.6
    label = picture.color if about_color else picture.shape
    names = COLORS if about_color else SHAPES
    tempting = [CONFUSED[label]] if label in CONFUSED else []
    rest = [name for name in others(names, label) if name not in tempting]
    options = [label, *tempting, *chance.sample(rest, 2 - len(tempting))]
    chance.shuffle(options)
    letter_of = dict(zip(options, LETTERS, strict=True))
    listed = "\n".join(f"{letter}. {name}" for name, letter in letter_of.items())
    wording = CHOICE.draw(part, chance)
    prompt = wording.text.format(attribute="color" if about_color else "shape", options=listed)

    def compose(values: Values) -> Answer:
        name, thing = values["name"], values["object"]
        letter = letter_of[name] if values["letter"] == "same" else LETTERS[(LETTERS.index(letter_of[name]) + 1) % len(LETTERS)]
        article = "" if about_color else "a "
        faults = misstates(name, label)
        if letter != letter_of[label]:
            faults += (Fault("wrong", f"picks {letter}"),)
        return Answer(f"It is {article}{name}, so the answer is {letter}{extra(thing)}", faults + adds(thing))

    weights = dict(color_options(label)) if about_color else dict(prefer(label, SHAPES, 1 - SLIP))
    slots = {
        "name": tuple((name, weights[name]) for name in options),
        "letter": (("same", 0.98), ("next", 0.02)),
        "object": objects(wording in CHOICE.hard),
    }
    right = letter_of[label]
    must_not = tuple(f"answer is {letter}" for letter in others(LETTERS, right)) + others(tuple(options), label) + ALL_OBJECTS
    seen = f"I see {'' if about_color else 'a '}{label}, which is {right}."
    return Task(
        "mcq", "mcq", prompt, pictures, seen, slots, compose, ((f"answer is {right}", f"{right}. {label}"),), must_not, wording.text
    )


def position_of(picture: Picture) -> str:
    """The position, such as "top left", of a picture with labels for side and height."""
    assert picture.height is not None
    assert picture.side is not None
    return f"{picture.height} {picture.side}"
