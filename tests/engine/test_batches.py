"""Which batches are computed, by which rank, and what they count."""

from __future__ import annotations

import pytest

from components.engine.inference import (
    compute_batch,
    finishing,
    meter_of,
    missing_batches,
    share_out,
)
from components.engine.inference_task import InferenceTask, Work
from components.engine.ranks import Ranks
from components.engine.throughput import Meter
from tests.engine.doubles import Memory, doubles

# what is missing


@pytest.mark.parametrize(
    ("stored", "batches"),
    [
        ([], [[3, 2], [1, 0]]),
        (["1"], [[3, 2], [1]]),
        (["4"], [[2], [1, 0]]),
        (["1", "2"], [[3, 2]]),
        (["1", "2", "3"], [[3]]),
        (["1", "2", "3", "4"], []),
    ],
)
def test_a_batch_loses_the_items_that_are_stored(stored: list[str], batches: list[list[int]]) -> None:
    task = doubles(Memory(**dict.fromkeys(stored, 0)), [1, 2, 3, 4], [[3, 2], [1, 0]])
    assert missing_batches([task]) == [batches]


def test_a_key_that_comes_twice_is_computed_once() -> None:
    store = Memory()
    first = doubles(store, [5, 5, 7], [[0, 1], [2]])
    second = doubles(store, [7, 9, 5], [[0], [1, 2]])
    assert missing_batches([first, second]) == [[[0], [2]], [[1]]]


def test_a_task_that_lacks_nothing_is_not_planned() -> None:
    complete, lacking = doubles(Memory(**{"5": 10}), [5], [[0]]), doubles(Memory(), [5], [[0]])
    assert missing_batches([complete, lacking]) == [[], [[0]]]
    assert (complete.planned, lacking.planned) == (0, 1)


# who computes what


@pytest.mark.parametrize(
    ("count", "ranks", "lockstep", "shares"),
    [
        (4, 1, False, [[0, 1, 2, 3]]),
        (4, 2, False, [[0, 2], [1, 3]]),
        (5, 2, False, [[0, 2, 4], [1, 3]]),
        (5, 3, False, [[0, 3], [1, 4], [2]]),
        (1, 3, False, [[0], [], []]),
        (0, 2, False, [[], []]),
        (4, 2, True, [[0, 2], [1, 3]]),
        (5, 2, True, [[0, 2, 4], [1, 3, "4"]]),
        (4, 3, True, [[0, 3], [1, "3"], [2, "3"]]),
        (5, 3, True, [[0, 3], [1, 4], [2, "3"]]),
        (1, 2, True, [[0], ["0"]]),
        (0, 2, True, [[], []]),
    ],
)
def test_batches_are_dealt_out_in_turn(count: int, ranks: int, lockstep: bool, shares: list[list[int | str]]) -> None:
    # A text stands for a batch that is run once more so that ranks keep in step, and counts nothing.
    expected = [[([10 * int(n), int(n)], isinstance(n, int)) for n in share] for share in shares]
    assert share_out([[10 * n, n] for n in range(count)], ranks, lockstep=lockstep) == expected


def test_a_batch_that_counts_is_stored_and_its_units_returned() -> None:
    store = Memory()
    task, rank = doubles(store, [5, 6, 7], []), Ranks(1, 2)
    assert compute_batch(task, [2, 0], rank) == 7 + 5
    assert store.writes == [{"7": 14, "5": 10}]
    assert task.seen == [([2, 0], rank)]
    assert compute_batch(task, [1], rank, counts=True) == 6


def test_a_batch_that_does_not_count_is_run_and_not_stored() -> None:
    store = Memory()
    task = doubles(store, [5, 6, 7], [])
    assert compute_batch(task, [2, 0], Ranks(), counts=False) == 0
    assert (store.writes, len(task.seen)) == ([], 1)


def test_a_task_with_too_few_values_is_refused() -> None:
    task = doubles(Memory(), [5, 6], [])
    task.compute = lambda items, ranks: [1]  # type: ignore[method-assign]  # noqa: ARG005
    with pytest.raises(ValueError, match="argument"):
        compute_batch(task, [0, 1], Ranks())


def test_a_task_is_finished_however_its_block_ends() -> None:
    task = doubles(Memory(), [5], [])
    with finishing(task):
        assert task.ended == 0
    assert task.ended == 1
    with pytest.raises(KeyboardInterrupt), finishing(task):
        raise KeyboardInterrupt
    assert task.ended == 2


# results and work


def test_results_come_in_the_order_of_the_items() -> None:
    task = doubles(Memory(**{"5": "five", "7": "seven"}), [7, 5, 7], [])
    assert task.results() == ["seven", "five", "seven"]
    with pytest.raises(KeyError):
        doubles(Memory(), [7], []).results()


def test_an_item_counts_one_unit_unless_its_task_says_otherwise() -> None:
    assert InferenceTask.size(doubles(Memory(), [7], []), 0) == 1
    assert doubles(Memory(), [7], []).size(0) == 7


def test_work_adds_up_passes() -> None:
    work = Work()
    assert work == Work(0, 0, 0, 0)
    work.add(3, 8, 2, 6)
    work.add(2, 4)
    assert work == Work(tokens=5, slots=12, targets=2, pairs=6)


def test_a_meter_holds_what_a_task_has_run() -> None:
    task = doubles(Memory(), [5], [])
    task.work.add(30, 40)
    meter = meter_of(task, 2.5)
    assert meter == Meter(tokens=30, slots=40, seconds=2.5, operations=2 * 10 * 30)
