"""Steps, epochs and learning rates."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch

from components.engine.schedule import Schedule, seed_everything
from components.engine.task import Step, check_plan


def test_learning_rate_rises_evenly_then_falls_by_half_a_cosine() -> None:
    schedule = Schedule.plan(steps_per_epoch=20, epochs=1, max_steps=None, warmup_share=0.2)
    factors = [schedule.factor(step) for step in range(20)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[12] == pytest.approx(0.5)
    assert all(a > b for a, b in itertools.pairwise(factors[4:]))
    assert 0 < factors[-1] < 0.02
    assert schedule.factor(20) == pytest.approx(0.0)


def test_a_single_step_trains_at_the_full_rate() -> None:
    assert Schedule.plan(50, 3, max_steps=1, warmup_share=0.1).factor(0) == 1.0


def test_a_cap_shortens_the_schedule_and_never_lengthens_it() -> None:
    assert Schedule.plan(50, 3, max_steps=70, warmup_share=0.1) == Schedule(50, 70, 7)
    assert Schedule.plan(50, 3, max_steps=1000, warmup_share=0.1) == Schedule(50, 150, 15)


def test_a_step_lies_in_its_epoch() -> None:
    schedule = Schedule(6, 18, 0)
    assert [schedule.locate(step) for step in (0, 5, 6, 17)] == [(0, 0), (0, 5), (1, 0), (2, 5)]


def test_an_empty_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to train on"):
        Schedule.plan(0, 3, None, 0.1)


def test_random_state_depends_on_the_parts_and_on_nothing_before() -> None:
    def draw(*parts: int) -> tuple[float, float, float]:
        seed_everything(*parts)
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002, S311

    first = draw(0, 1, 7, 0)
    torch.rand(100)
    assert draw(0, 1, 7, 0) == first
    assert len({draw(0, 1, 7, 0), draw(0, 1, 7, 1), draw(0, 1, 8, 0), draw(0, 2, 7, 0), draw(1, 1, 7, 0)}) == 5


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([Step([["a"], ["b"]])], "an epoch has 1 steps, and the first had 2"),
        ([Step([["a"], ["b"]]), Step([["a", "b"], ["c"]])], r"step 1 of the epoch has micro-batches \[2, 1\] for 2 ranks"),
        ([Step([[], []]), Step([["a"], ["b"]])], r"step 0 of the epoch has micro-batches \[0, 0\]"),
        ([Step([["a"]]), Step([["a"]])], r"micro-batches \[1\] for 2 ranks"),
    ],
)
def test_plans_that_would_hang_are_refused(steps: list[Step], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_plan(steps, world=2, expected=2)
