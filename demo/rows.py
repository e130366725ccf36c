"""The base's training rows: answers to learn, and answers to check.

- A row is a root (media, prompt), a text after it, and the index from which the base learns that text.
- *Answers* follow the tasks' habits, faults included. *Checks* have the exact form of the reward model's judge: instruction, question,
  answer, and then the critique, which the base learns.
- Roots have their media placeholders expanded, as the processor expands them; a test compares the two.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from demo.architecture import IMAGE, PATCH
from demo.families import FAMILIES, draw_task
from demo.images import Picture
from demo.tasks import Answer, Task
from demo.text import IMAGE_TOKEN, VIDEO_TOKEN

SIDE = IMAGE // PATCH
IMAGE_TOKENS = SIDE * SIDE + SIDE * (SIDE + 1)  # the whole image, and its one tile with a newline a line
FRAME_TOKENS = (SIDE // 2) ** 2  # a frame is pooled two by two; one newline follows the last frame


@dataclass(frozen=True)
class Mix:
    """Weights of the families among answers and among checks; a family that is harder to learn has a larger weight."""

    answers: dict[str, int]
    checks: dict[str, int]


def _weights(*weights: int) -> dict[str, int]:
    return dict(zip(FAMILIES, weights, strict=True))


#                                        color, shape, exists, position, long, mcq, video color, order, harmful, harmless
FIRST_MIX = Mix(answers=_weights(2, 2, 3, 2, 5, 4, 3, 3, 2, 2), checks=_weights(2, 2, 3, 2, 6, 4, 3, 3, 1, 1))
SECOND_MIX = Mix(answers=_weights(2, 2, 3, 2, 4, 8, 3, 4, 2, 2), checks=_weights(2, 3, 3, 3, 6, 6, 3, 5, 1, 1))

# For a base that has learned to answer and learns more words: requests weigh more, as most of the new words are theirs.
WORDS_MIX = Mix(answers=_weights(2, 2, 3, 2, 4, 6, 3, 4, 4, 3), checks=_weights(2, 3, 3, 3, 6, 6, 3, 5, 3, 2))


@dataclass(frozen=True)
class TrainingRow:
    """Tokens of one row; the loss counts those from `learned_from` on."""

    tokens: list[int]
    learned_from: int
    pictures: tuple[Picture, ...]


class RowMaker:
    """Makes training rows for one tokenizer and one instruction of the judge."""

    def __init__(self, tokenizer: Any, instruction: str) -> None:
        self.tokenizer = tokenizer
        self.instruction = instruction
        self._tokens: dict[str, list[int]] = {}

    def root(self, task: Task, text: str) -> list[int]:
        """The user's turn with the media's placeholders, up to the end of `text`."""
        clip = task.category == "video"
        placeholder = VIDEO_TOKEN * (FRAME_TOKENS * len(task.pictures) + 1) if clip else IMAGE_TOKEN * IMAGE_TOKENS
        return [*self._encode(f"<|im_start|>user\n{placeholder}\n"), *self._encode(text)]

    def answer(self, task: Task, answer: Answer) -> TrainingRow:
        """A row that learns an answer."""
        root = [*self.root(task, task.prompt), *self._encode("<|im_end|>\n<|im_start|>assistant\n")]
        return TrainingRow([*root, *self._encode(answer.text + "<|im_end|>")], len(root), task.pictures)

    def check(self, task: Task, answer: Answer) -> TrainingRow:
        """A row that learns the critique of an answer."""
        root = self.root(task, f"{self.instruction}\nQuestion: {task.prompt}\nAnswer:\n")
        prefix = [*root, *self._encode(answer.text), *self._encode("<|im_end|>\n<|im_start|>assistant\n")]
        return TrainingRow([*prefix, *self._encode(task.critique(answer) + "<|im_end|>")], len(prefix), task.pictures)

    def _encode(self, text: str) -> list[int]:
        if text not in self._tokens:
            self._tokens[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._tokens[text]


def draw_rows(
    maker: RowMaker, pictures: Sequence[Picture], mix: Mix, count: int, check_share: float, chance: random.Random
) -> list[TrainingRow]:
    """`count` rows; each is a check with probability `check_share`."""
    rows = []
    for _ in range(count):
        checks = chance.random() < check_share
        weights = mix.checks if checks else mix.answers
        task = draw_task(chance.choices(list(weights), list(weights.values()))[0], pictures, chance)
        rows.append(maker.check(task, answer_to_check(task, chance)) if checks else maker.answer(task, task.habit(chance)))
    return rows


def answer_to_check(task: Task, chance: random.Random) -> Answer:
    """An answer to check: a third right, a third with the base's faults, a third with random faults, so that guessing does not pay."""
    draw = chance.random()
    if draw < RIGHT_CHECKS:
        for _ in range(TRIES):
            answer = task.habit(chance)
            if not answer.faults:
                return answer
    return task.habit(chance) if draw < RIGHT_CHECKS + HABIT_CHECKS else task.any_answer(chance)


RIGHT_CHECKS, HABIT_CHECKS = 0.3, 0.35
TRIES = 12  # draws for an answer without a fault
