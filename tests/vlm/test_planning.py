from __future__ import annotations

import pytest

from components.errors import UserError
from components.vlm.planning import plan_batches, plan_epoch, plan_step


def plan(tokens: list[int], ranks: int, epoch: int = 0) -> list[list[list[list[int]]]]:
    return plan_epoch(tokens, seed=0, epoch=epoch, queries_per_step=4, ranks=ranks, row_tokens=100, batch_rows=2)


TOKENS = [10, 90, 40, 40, 100, 20, 60, 35, 80, 15, 15, 300, 5]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_query_is_trained_exactly_once(ranks: int) -> None:
    seen = [query for step in plan(TOKENS, ranks) for rank in step for micro in rank for query in micro]
    assert sorted(seen) == list(range(len(TOKENS)))


@pytest.mark.parametrize("ranks", [2, 3])
def test_all_ranks_have_equally_many_micro_batches_and_work(ranks: int) -> None:
    for step in plan(TOKENS, ranks):
        assert len({len(rank) for rank in step}) == 1
        assert all(rank[0] for rank in step)


def test_steps_hold_the_same_queries_whatever_the_number_of_ranks() -> None:
    def sets(ranks: int) -> list[set[int]]:
        return [{query for rank in step for micro in rank for query in micro} for step in plan(TOKENS[:12], ranks)]

    assert sets(1) == sets(2) == sets(3)


def test_the_heaviest_step_comes_first_and_epochs_differ() -> None:
    def load(step: list[list[list[int]]]) -> int:
        return sum(TOKENS[query] for rank in step for micro in rank for query in micro)

    loads = [load(step) for step in plan(TOKENS, 2)]
    assert loads[0] == max(loads)
    assert plan(TOKENS, 2, epoch=0) != plan(TOKENS, 2, epoch=1)


def test_a_rank_without_more_work_gets_an_empty_micro_batch() -> None:
    step = plan_step([0, 1, 2], [100, 100, 100], ranks=2, row_tokens=100, batch_rows=1)
    assert [len(rank) for rank in step] == [2, 2]
    assert [] in step[1]


def test_batches_keep_to_the_budget() -> None:
    for batch in plan_batches(range(len(TOKENS)), TOKENS, row_tokens=100, batch_rows=2):
        assert sum(TOKENS[query] for query in batch) <= 200 or batch == [11, 4]


def test_fewer_queries_than_ranks_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"training\.ranks"):
        plan([10], 2)
