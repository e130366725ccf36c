"""A query's question, all its possible answers, and the faults of each answer.

A task's answers are the product of its *slots*: the stated color, the position, an added object, the wording. Each option of a slot has a
weight, its share in the base's training answers. The weights make the base err consistently: greedy answers would hide an error that is
spread evenly. `Task.compose` puts the chosen options into a sentence and names the faults. The same slots give the base's training answers
and the responses made by rule, and they grade sampled responses.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

from components.preferences.record import Category
from demo.images import Picture

Kind = Literal["wrong", "adds", "misses", "vague", "unsafe", "mixed", "evades", "refuses"]

# How much a fault weighs in the ranking; responses of equal sum are tied.
POINTS: dict[Kind, int] = {"wrong": 3, "adds": 2, "misses": 1, "vague": 3, "unsafe": 4, "mixed": 3, "evades": 2, "refuses": 3}

FIRST_SHARE = 0.5

Options = tuple[tuple[str, float], ...]
Values = dict[str, str]


@dataclass(frozen=True)
class Fault:
    """One fault of an answer; `note` completes "Wrong, it ..."."""

    kind: Kind
    note: str


@dataclass(frozen=True)
class Answer:
    """An answer with its faults; a fully right answer has none."""

    text: str
    faults: tuple[Fault, ...]

    @property
    def points(self) -> int:
        """0 for a right answer, more for a worse one."""
        return sum(POINTS[fault.kind] for fault in self.faults)


@dataclass(frozen=True)
class Task:
    """A question with its media, its possible answers and its ground truth.

    `seen` opens every critique: the observation, before it judges the answer. `must` and `must_not` are the ground truth that a
    judge reads: an answer must contain one wording of each list in `must`, and no wording of `must_not`. `wording` is the prompt's text before
    its places were filled, and `request` the thing that a request is about: tasks that share them are not independent.
    """

    family: str
    category: Category
    prompt: str
    pictures: tuple[Picture, ...]
    seen: str
    slots: dict[str, Options]
    compose: Callable[[Values], Answer] = field(repr=False)
    must: tuple[tuple[str, ...], ...]
    must_not: tuple[str, ...]
    wording: str
    safety: Literal["harmful", "harmless"] | None = None
    request: str | None = None

    def answers(self) -> Iterator[Answer]:
        """All answers that the slots allow, each text once."""
        seen_texts: set[str] = set()
        for combination in product(*(options for options in self.slots.values())):
            answer = self.compose({name: value for name, (value, _) in zip(self.slots, combination, strict=True)})
            if answer.text not in seen_texts:
                seen_texts.add(answer.text)
                yield answer

    def habit(self, chance: random.Random) -> Answer:
        """An answer drawn with the slots' weights, as in the base's training."""
        return self.compose({name: _pick(options, chance) for name, options in self.slots.items()})

    def any_answer(self, chance: random.Random) -> Answer:
        """An answer whose slots each take, at even odds, their first option (mostly the right one) or a uniformly drawn option."""
        return self.compose(
            {name: (options[0] if chance.random() < FIRST_SHARE else chance.choice(options))[0] for name, options in self.slots.items()}
        )

    def critique(self, answer: Answer) -> str:
        """The critique: the observation, the verdict, and every fault."""
        return f"{self.seen} {verdict(answer)}"


def seeded(name: str | int) -> random.Random:
    """A generator for one purpose, the same on every machine."""
    return random.Random(name)  # noqa: S311 - draws of a data set, no secrets


def verdict(answer: Answer) -> str:
    """The critique's second sentence."""
    if not answer.faults:
        return "Correct, the answer fits."
    return "Wrong, it " + " and ".join(fault.note for fault in answer.faults) + "."


def _pick(options: Options, chance: random.Random) -> str:
    return chance.choices([value for value, _ in options], [weight for _, weight in options])[0]


def prefer(value: str, others: tuple[str, ...], share: float) -> Options:
    """`value` with weight `share`; the others share the remaining weight evenly."""
    rest = [other for other in others if other != value]
    return ((value, share), *((other, (1 - share) / len(rest)) for other in rest))
