from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from components.errors import UserError
from components.trees.planning import plan_batches, plan_epoch, plan_step
from components.trees.trees import pack_rows


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


def test_step_queries_do_not_depend_on_ranks() -> None:
    def sets(ranks: int) -> list[set[int]]:
        return [{query for rank in step for micro in rank for query in micro} for step in plan(TOKENS[:12], ranks)]

    assert sets(1) == sets(2) == sets(3)


def test_heaviest_step_comes_first_and_epochs_differ() -> None:
    def load(step: list[list[list[int]]]) -> int:
        return sum(TOKENS[query] for rank in step for micro in rank for query in micro)

    loads = [load(step) for step in plan(TOKENS, 2)]
    assert loads[0] == max(loads)
    assert plan(TOKENS, 2, epoch=0) != plan(TOKENS, 2, epoch=1)


def test_rank_without_more_work_gets_empty_micro_batch() -> None:
    step = plan_step([0, 1, 2], [100, 100, 100], ranks=2, row_tokens=100, batch_rows=1)
    assert [len(rank) for rank in step] == [2, 2]
    assert [] in step[1]


def test_batches_fit_budget_and_long_query_has_own_row() -> None:
    batches = plan_batches(range(len(TOKENS)), TOKENS, row_tokens=100, batch_rows=2)
    assert batches[0] == [11]
    assert all(sum(TOKENS[query] for query in batch) <= 200 for batch in batches[1:])


def test_rows_beside_longer_query_count_padded_to_it() -> None:
    assert plan_batches([0, 1, 2, 3], [150, 100, 100, 100], row_tokens=100, batch_rows=4) == [[0, 1], [2, 3]]


def test_step_with_overlong_query_precedes_heavier_step() -> None:
    tokens = [90, 90, 90, 90, 130, 10, 10, 10]
    for epoch in range(5):
        first = plan(tokens, 1, epoch)[0]
        assert 4 in {query for rank in first for micro in rank for query in micro}


lengths = st.lists(st.integers(1, 300), min_size=1, max_size=60)


@given(
    tokens=lengths,
    ranks=st.integers(1, 4),
    queries_per_step=st.integers(1, 16),
    row_tokens=st.integers(1, 400),
    batch_rows=st.integers(1, 5),
    epoch=st.integers(0, 3),
)
def test_random_plan_trains_queries_once_in_bounded_batches(
    tokens: list[int], ranks: int, queries_per_step: int, row_tokens: int, batch_rows: int, epoch: int
) -> None:
    assume(len(tokens) >= ranks)
    steps = plan_epoch(
        tokens, seed=1, epoch=epoch, queries_per_step=queries_per_step, ranks=ranks, row_tokens=row_tokens, batch_rows=batch_rows
    )
    assert sorted(query for step in steps for rank in step for micro in rank for query in micro) == list(range(len(tokens)))
    for step in steps:
        assert len(step) == ranks
        assert len({len(rank) for rank in step}) == 1
        loads = [sum(tokens[query] for micro in rank for query in micro) for rank in step]
        assert max(loads) - min(loads) <= max(tokens[query] for rank in step for micro in rank for query in micro)
        for micro in (micro for rank in step for micro in rank if micro):
            rows = pack_rows([tokens[query] for query in micro], row_tokens)
            longest = max(sum(tokens[micro[item]] for item in row) for row in rows)
            assert len(rows) == 1 or len(rows) * longest <= batch_rows * row_tokens


@given(tokens=lengths, row_tokens=st.integers(1, 400), batch_rows=st.integers(1, 5))
def test_batch_is_packed_as_it_was_planned(tokens: list[int], row_tokens: int, batch_rows: int) -> None:
    planned = pack_rows(tokens, row_tokens)
    packed = []
    for batch in plan_batches(range(len(tokens)), tokens, row_tokens=row_tokens, batch_rows=batch_rows):
        packed += [[batch[item] for item in row] for row in pack_rows([tokens[query] for query in batch], row_tokens)]
    assert len(packed) <= len(planned)
    totals = [sum(tokens[query] for query in row) for row in packed]
    assert max(totals) == totals[0]


def test_fewer_queries_than_ranks_raise_user_error() -> None:
    with pytest.raises(UserError, match=r"training\.ranks"):
        plan([10], 2)
