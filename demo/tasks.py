"""What a query asks, every way in which it may be answered, and what is wrong with each.

A task's answers are the product of its *slots*: the color that is stated, the place, an object that is added, the wording. Each option of a
slot has a weight, the share of the base's training answers that take it, so that the base errs in the same way every time it is asked
(an error that is spread evenly would never be seen in greedy answers). `Task.compose` puts chosen options into a sentence and names
the faults. From the same slots come the base's training answers, the responses made by rule, and the reading of sampled responses.
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
    """One thing that is wrong with an answer; `note` completes "Wrong, it ..."."""

    kind: Kind
    note: str


@dataclass(frozen=True)
class Answer:
    """An answer with its faults, none if it is fully right."""

    text: str
    faults: tuple[Fault, ...]

    @property
    def points(self) -> int:
        """0 for a right answer, more for a worse one."""
        return sum(POINTS[fault.kind] for fault in self.faults)


@dataclass(frozen=True)
class Task:
    """A question with its media and everything that is known about its answers.

    `seen` opens every critique: what the annotator sees, before the answer is compared with it. `must` and `must_not` are the truth that a
    judge reads: of each list in `must` one wording has to occur in an answer, none of `must_not` may.
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
    safety: Literal["harmful", "harmless"] | None = None

    def answers(self) -> Iterator[Answer]:
        """Every answer that the slots allow, the same text once."""
        known: set[str] = set()
        for combination in product(*(options for options in self.slots.values())):
            answer = self.compose({name: value for name, (value, _) in zip(self.slots, combination, strict=True)})
            if answer.text not in known:
                known.add(answer.text)
                yield answer

    def habit(self, chance: random.Random) -> Answer:
        """An answer as the base is taught to give it: each slot by its weights."""
        return self.compose({name: _pick(options, chance) for name, options in self.slots.items()})

    def any_answer(self, chance: random.Random) -> Answer:
        """An answer in which each slot takes its first option, which is mostly the true one, or any, at even odds."""
        return self.compose(
            {name: (options[0] if chance.random() < FIRST_SHARE else chance.choice(options))[0] for name, options in self.slots.items()}
        )

    def critique(self, answer: Answer) -> str:
        """What a human annotator would write: what is seen, the verdict, and every fault by name."""
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
    """`value` with weight `share`, and the rest of the weight spread over `others` evenly."""
    rest = [other for other in others if other != value]
    return ((value, share), *((other, (1 - share) / len(rest)) for other in rest))
