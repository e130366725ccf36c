from __future__ import annotations

import re
from itertools import islice

import pytest

from demo.families import FAMILIES, draw_task
from demo.images import load_pictures
from demo.tasks import Answer, Task, seeded


def tasks(family: str, count: int = 12) -> list[Task]:
    chance = seeded(f"test {family}")
    return [draw_task(family, load_pictures("train"), chance) for _ in range(count)]


def some_answers(task: Task) -> list[Answer]:
    chance = seeded("answers")
    return [*islice(task.answers(), 20), *(task.any_answer(chance) for _ in range(120))]


def occurs(wording: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(wording)}\b", text, re.IGNORECASE) is not None


def satisfies(task: Task, answer: Answer) -> bool:
    stated = all(any(occurs(wording, answer.text) for wording in wordings) for wordings in task.must)
    return stated and not any(occurs(wording, answer.text) for wording in task.must_not)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_faultless_answers_satisfy_ground_truth(family: str) -> None:
    for task in tasks(family, 6):
        answers = some_answers(task)
        assert any(not answer.faults for answer in answers)
        assert any(answer.faults for answer in answers)
        disagreeing = [answer for answer in answers if satisfies(task, answer) == bool(answer.faults)]
        assert disagreeing == []


@pytest.mark.parametrize("family", FAMILIES)
def test_critique_states_observation_and_one_verdict(family: str) -> None:
    for task in tasks(family):
        for answer in some_answers(task):
            critique = task.critique(answer)
            assert critique.startswith(task.seen)
            assert occurs("correct", critique) == (not answer.faults)
            assert occurs("wrong", critique) == bool(answer.faults)


def test_critique_names_stated_color() -> None:
    for task in tasks("short_colour"):
        for answer in task.answers():
            for fault in answer.faults:
                assert fault.note.removeprefix("says ").removeprefix("adds a ") in answer.text


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_answers_carry_equal_faults(family: str) -> None:
    for task in tasks(family, 4):
        graded: dict[str, tuple[str, ...]] = {}
        chance = seeded(0)
        for answer in [task.any_answer(chance) for _ in range(200)]:
            notes = tuple(fault.note for fault in answer.faults)
            assert graded.setdefault(answer.text, notes) == notes


def test_answer_lengths_match_paper_categories() -> None:
    for task in tasks("long_description", 4):
        assert min(len(answer.text) for answer in task.answers()) > 128
    for family in ("short_colour", "short_shape", "short_exists", "short_place"):
        for task in tasks(family):
            assert max(len(answer.text) for answer in task.answers()) < 128


def test_base_habit_confuses_teal_with_green() -> None:
    chance = seeded("habit")
    teal = next(task for task in tasks("short_colour", 200) if task.pictures[0].color == "teal")
    habits = [teal.habit(chance).text for _ in range(400)]
    assert sum(occurs("green", text) for text in habits) > 0.55 * len(habits)
    assert sum(occurs("teal", text) for text in habits) > 0.15 * len(habits)


def test_harmful_request_answers_stay_short() -> None:
    for task in tasks("harmful"):
        for answer in task.answers():
            assert len(answer.text) < 110
