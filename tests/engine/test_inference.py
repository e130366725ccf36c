"""Planning, sharing out and merging with a task that needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.engine.inference import Launch, missing_batches, run_tasks, share_out
from components.engine.inference_task import InferenceTask
from components.engine.ranks import Ranks
from components.storage.content_cache import ContentCache
from tests.tiny import save_checkout

LAUNCH = Launch("", "critique")  # on one rank nothing is started


@dataclass
class Squares(InferenceTask):
    """Squares of numbers, three a batch, largest first; stops at `poison`."""

    numbers: list[int]
    poison: int | None = None
    seen: list[list[int]] = field(default_factory=list)

    def plan(self) -> list[list[int]]:
        order = sorted(range(len(self.numbers)), key=lambda item: -self.numbers[item])
        return [order[start : start + 3] for start in range(0, len(order), 3)]

    def compute(self, items: Sequence[int], ranks: Ranks) -> list[int]:
        assert ranks.most(3) == 3
        self.seen.append([self.numbers[item] for item in items])
        if self.poison in self.seen[-1]:
            raise KeyboardInterrupt
        self.work.add(2 * len(items), 3 * len(items))
        return [self.numbers[item] ** 2 for item in items]

    def size(self, item: int) -> int:
        return 10 if self.numbers[item] > 5 else 1

    def operations(self) -> float:
        return 14.0 * self.work.tokens


def squares(cache: ContentCache, numbers: list[int], poison: int | None = None) -> Squares:
    return Squares("squares", "number", [str(number) for number in numbers], cache, numbers, poison)


def test_killed_run_resumes_with_the_batches_left_in_item_order(tmp_path: Path, tiny_base: Path, tiny_media: Path) -> None:
    settings = save_checkout(tmp_path, tiny_base, tiny_media)
    numbers = [4, 9, 1, 7, 3, 8, 2]
    with ContentCache(Checkout(tmp_path), "squares") as cache:
        first = squares(cache, numbers, poison=3)
        with pytest.raises(KeyboardInterrupt):
            run_tasks([first], LAUNCH, settings, Checkout(tmp_path))
        assert first.seen == [[9, 8, 7], [4, 3, 2]]
        # A second task has two numbers more, one of them twice; what the first is about to compute is not computed again.
        tasks = [squares(cache, numbers), squares(cache, [2, 5, 5, 9])]
        report = run_tasks(tasks, LAUNCH, settings, Checkout(tmp_path))
        assert tasks[0].seen == [[4, 3, 2], [1]]
        assert tasks[1].seen == [[5]]
        assert tasks[0].results() == [16, 81, 1, 49, 9, 64, 4]
        assert tasks[1].results() == [4, 25, 25, 81]
        assert (report.items, report.units) == ([4, 1], [4, 1])
        assert report.times["padding_share"] == pytest.approx(1 / 3)
        second_report = run_tasks(tasks, LAUNCH, settings, Checkout(tmp_path))
        assert (second_report.items, second_report.times) == ([0, 0], {})


def test_batches_are_planned_over_all_items_whatever_is_known(tmp_path: Path) -> None:
    with ContentCache(Checkout(tmp_path), "squares") as cache:
        cache.store({"8": 64, "1": 1})
        assert missing_batches([squares(cache, [4, 9, 1, 7, 3, 8, 2])]) == [[[1, 3], [0, 4, 6]]]


def test_batch_goes_to_one_rank_and_lockstep_shares_are_equal() -> None:
    batches = [[0, 1], [2], [3], [4, 5], [6]]
    apart = share_out(batches, 2, lockstep=False)
    assert apart == [[([0, 1], True), ([3], True), ([6], True)], [([2], True), ([4, 5], True)]]
    together = share_out(batches, 2, lockstep=True)
    assert [len(share) for share in together] == [3, 3]
    assert together[1][-1] == ([6], False)
    for shares in (apart, together):
        assert sorted(item for share in shares for batch, counts in share if counts for item in batch) == list(range(7))
    assert share_out([], 3, lockstep=True) == [[], [], []]
    assert share_out([[0]], 3, lockstep=True) == [[([0], True)], [([0], False)], [([0], False)]]
