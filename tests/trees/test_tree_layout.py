"""A small batch of trees written out by hand: tokens, positions, masks, predictors and last tokens; and packing at its edges."""

from __future__ import annotations

import pytest
import torch

from components.errors import UserError
from components.families.adapters import Root
from components.trees.planning import plan_batches, plan_epoch, plan_step
from components.trees.trees import PADDING, Branch, Tree, build_batch, pack_rows, tree_tokens

LONG = Tree(Root((10, 11, 12)), (Branch((20, 21)), Branch((30, 31, 32), 1)))  # 8 tokens
SHORT = Tree(Root((40,)), (Branch((50,), 1), Branch((60, 61))))  # 4 tokens
TEXT = Tree(Root((70, 71)), (Branch((80,)),))  # 3 tokens


def test_a_batch_has_this_layout() -> None:
    batch = build_batch([SHORT, LONG, TEXT], 8, "cpu", 7)
    assert (LONG.tokens, SHORT.tokens, tree_tokens(3, [2, 3])) == (8, 4, 8)
    # Row 0 is the fullest, `LONG`; row 1 holds `SHORT` and `TEXT`, with one place of padding.
    assert batch.input_ids_RL.tolist() == [[10, 11, 12, 20, 21, 30, 31, 32], [40, 50, 60, 61, 70, 71, 80, 7]]
    assert batch.position_ids_RL.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5], [0, 1, 1, 2, 0, 1, 2, 0]]
    assert batch.tree_RL.tolist() == [[1] * 8, [0, 0, 0, 0, 2, 2, 2, PADDING]]
    assert batch.branch_RL.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 2, 0, 0, 1, 0]]
    # Branches are numbered in the order of the trees: 0 and 1 of SHORT, 2 and 3 of LONG, 4 of TEXT.
    assert batch.target_T.tolist() == [20, 21, 31, 32, 60, 61, 80]
    assert batch.predictor_T.tolist() == [2, 3, 5, 6, 8, 10, 13]
    assert batch.branch_T.tolist() == [2, 2, 3, 3, 1, 1, 4]
    assert batch.last_K.tolist() == [9, 11, 4, 7, 14]
    assert {value.dtype for value in vars(batch).values() if isinstance(value, torch.Tensor)} == {torch.long}
    assert batch.branches == 5
    assert batch.roots == [LONG.root, SHORT.root, TEXT.root]
    assert PADDING == -1


def test_the_first_token_of_every_branch_follows_the_root() -> None:
    batch = build_batch([Tree(Root((1, 2)), (Branch((3,)), Branch((4,)), Branch((5, 6))))], 100, "cpu", 0)
    assert batch.predictor_T.tolist() == [1, 1, 1, 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mask_is_written_out_by_hand(dtype: torch.dtype) -> None:
    batch = build_batch([Tree(Root((1, 2)), (Branch((3, 4)), Branch((5,)))), Tree(Root((6,)), (Branch((7,)),))], 9, "cpu", 0)
    seen = [
        "#.......",  # root
        "##......",
        "###.....",  # first branch
        "####....",
        "##..#...",  # second branch
        ".....#..",  # another tree
        ".....##.",
    ]
    batch.tree_RL = torch.cat([batch.tree_RL, torch.tensor([[PADDING]])], 1)
    batch.branch_RL = torch.cat([batch.branch_RL, torch.tensor([[0]])], 1)
    batch.input_ids_RL = torch.cat([batch.input_ids_RL, torch.tensor([[0]])], 1)
    mask = batch.mask_R1LL(dtype)
    assert (mask.shape, mask.dtype) == ((1, 1, 8, 8), dtype)
    expected = torch.tensor([[0.0 if mark == "#" else torch.finfo(dtype).min for mark in row] for row in [*seen, ".......#"]], dtype=dtype)
    assert torch.equal(mask[0, 0], expected)


def test_positions_of_several_axes_go_on_from_their_largest() -> None:
    positions = torch.tensor([[0, 1, 1], [0, 1, 4], [0, 2, 2]])
    tree = Tree(Root((1, 2, 3), positions_AL=positions), (Branch((4, 5)), Branch((6,))))
    batch = build_batch([tree, TEXT], 6, "cpu", 0)
    assert batch.position_ids_RL.tolist() == [
        [[0, 1, 1, 5, 6, 5], [0, 1, 2, 0, 0, 0]],
        [[0, 1, 4, 5, 6, 5], [0, 1, 2, 0, 0, 0]],
        [[0, 2, 2, 5, 6, 5], [0, 1, 2, 0, 0, 0]],
    ]
    one_axis = build_batch([Tree(Root((1, 2), positions_AL=torch.tensor([[0, 3]])), (Branch((4,)),))], 6, "cpu", 0)
    assert one_axis.position_ids_RL.tolist() == [[0, 3, 4]]


@pytest.mark.parametrize(
    ("lengths", "budget", "rows"),
    [
        ([], 10, []),
        ([10], 10, [[0]]),
        ([11], 10, [[0]]),
        ([6, 4], 10, [[0, 1]]),
        ([6, 5], 10, [[0], [1]]),
        ([4, 6, 4, 6], 10, [[1, 0], [3, 2]]),
        ([1, 12, 1], 10, [[1], [0, 2]]),  # nothing joins a row that is over its budget
        ([5, 5, 3, 2, 5], 10, [[0, 1], [4, 2, 3]]),
        ([7, 7, 3, 2], 10, [[0, 2], [1, 3]]),
        ([7, 8, 2], 10, [[1, 2], [0]]),
    ],
)
def test_rows_are_packed_by_first_fit_and_the_fullest_is_first(lengths: list[int], budget: int, rows: list[list[int]]) -> None:
    assert pack_rows(lengths, budget) == rows


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        (Tree(Root(()), (Branch((1,)),)), "a tree needs a branch, and a root with tokens"),
        (Tree(Root((1,)), ()), "a tree needs a branch, and a root with tokens"),
        (Tree(Root((1,)), (Branch((1,)), Branch((), 0))), "a branch of 0 tokens"),
        (Tree(Root((1,)), (Branch((1, 2), -1),)), "from token -1 on"),
        (Tree(Root((1,)), (Branch((1, 2), 3),)), "from token 3 on"),
        (Tree(Root((1, 2), positions_AL=torch.zeros(3, 3, dtype=torch.long)), (Branch((1,)),)), "a root of 2 tokens has positions for 3"),
    ],
)
def test_a_tree_that_cannot_be_read_names_what_is_wrong(tree: Tree, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build_batch([TEXT, tree], 10, "cpu", 0)


# plans


def test_a_step_is_dealt_to_the_rank_with_least() -> None:
    tokens = [50, 40, 30, 20, 10, 5]
    assert plan_step(range(6), tokens, ranks=2, row_tokens=100, batch_rows=1) == [[[0, 3, 4]], [[1, 2, 5]]]  # 70 each after four
    assert plan_step(range(6), tokens, ranks=3, row_tokens=100, batch_rows=1) == [[[0, 5]], [[1, 4]], [[2, 3]]]
    assert plan_step([5, 0], tokens, ranks=2, row_tokens=100, batch_rows=1) == [[[0]], [[5]]]


def test_a_rank_with_fewer_micro_batches_gets_empty_ones() -> None:
    assert plan_step(range(4), [60, 20, 20, 20], ranks=2, row_tokens=20, batch_rows=1) == [[[0], [], []], [[1], [2], [3]]]


@pytest.mark.parametrize(
    ("row_tokens", "batch_rows", "batches"),
    [
        (10, 1, [[0], [1], [2, 3]]),
        (10, 2, [[0, 1], [2, 3]]),
        (9, 2, [[0], [1, 2, 3]]),  # 10 tokens are over the budget: a row by itself, and 18 // 10 rows in its batch
        (4, 2, [[0], [1], [2], [3]]),
        (5, 4, [[0, 1], [2, 3]]),
    ],
)
def test_batches_hold_rows_up_to_their_budget(row_tokens: int, batch_rows: int, batches: list[list[int]]) -> None:
    tokens = [10, 10, 5, 5] if row_tokens in (10, 4, 5) else [10, 9, 5, 4]
    assert plan_batches(range(4), tokens, row_tokens=row_tokens, batch_rows=batch_rows) == batches


def queries_of(step: list[list[list[int]]]) -> list[int]:
    return sorted(query for rank in step for micro in rank for query in micro)


def epoch(tokens: list[int], per_step: int, ranks: int, seed: int = 3, number: int = 0, row_tokens: int = 100) -> list[list[int]]:
    steps = plan_epoch(tokens, seed=seed, epoch=number, queries_per_step=per_step, ranks=ranks, row_tokens=row_tokens, batch_rows=4)
    return [queries_of(step) for step in steps]


def test_a_last_step_smaller_than_the_ranks_joins_the_one_before() -> None:
    for count, ranks, sizes in ((9, 2, [4, 5]), (10, 2, [2, 4, 4]), (9, 1, [1, 4, 4]), (3, 3, [3]), (11, 3, [3, 4, 4]), (10, 3, [4, 6])):
        steps = epoch([10] * count, 4, ranks)
        assert sorted(map(len, steps)) == sizes, (count, ranks)
        assert sorted(query for step in steps for query in step) == list(range(count))


def test_the_order_of_an_epoch_follows_seed_and_number() -> None:
    plans = [epoch([10] * 12, 3, 1, seed, number) for seed, number in ((0, 0), (1, 0), (0, 1))]
    assert plans[0] == epoch([10] * 12, 3, 1, 0, 0)
    assert len({str(plan) for plan in plans}) == 3


def test_step_of_the_longest_row_then_of_most_tokens_is_first() -> None:
    for seed in range(6):
        # One query beyond the budget outweighs any sum; within the budget the sum decides.
        assert 0 in epoch([150] + [90] * 11, 3, 1, seed)[0]
        tokens = [10] * 9 + [60, 60, 60]
        steps = epoch(tokens, 3, 1, seed)
        loads = [sum(tokens[query] for query in step) for step in steps]
        assert loads[0] == max(loads)


def test_of_equal_steps_the_first_drawn_stays_first() -> None:
    import numpy as np

    order = np.random.default_rng((3, 0)).permutation(8).tolist()
    assert epoch([10] * 8, 2, 1) == [sorted(order[start : start + 2]) for start in range(0, 8, 2)]


def test_as_many_queries_as_ranks_are_enough() -> None:
    assert epoch([10, 10, 10], 2, 3) == [[0, 1, 2]]
    with pytest.raises(UserError, match=r"2 training queries can't be shared by training\.ranks=3: lower training\.ranks"):
        epoch([10, 10], 2, 3)
