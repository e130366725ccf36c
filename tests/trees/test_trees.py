"""Trees against the slow way: every response in a separate sequence, through the model's own forward."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.families.adapters import Root
from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.trees.logprobs import TreeModel, tree_hidden
from components.trees.scoring import policy_tree
from components.trees.trees import Branch, Tree, build_batch, pack_rows
from tests.tiny import pixels, preprocessor, queries


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return load_model(tiny_base)


@pytest.fixture(scope="module")
def trees(tiny_base: Path, tiny_media: Path) -> list[Tree]:
    prepared: Preprocessor = preprocessor(tiny_base, tiny_media)
    return [policy_tree(prepared, query) for query in queries()]


def separate_log_prob(model: Any, root: Root, branch: Branch) -> torch.Tensor:
    tokens = torch.tensor([[*root.input_ids, *branch.input_ids]])
    logits = model(input_ids=tokens, **pixels(root)).logits[0].float()
    start = len(root.input_ids)
    predicted = logits[start - 1 : -1].log_softmax(-1)
    return predicted.gather(1, tokens[0, start:, None]).sum()


@pytest.mark.parametrize("row_tokens", [1, 200, 4000], ids=["a row a tree", "some packed", "all in one row"])
def test_log_probs_equal_separate_forwards(model: Any, trees: list[Tree], row_tokens: int) -> None:
    with torch.no_grad():
        expected = torch.stack([separate_log_prob(model, tree.root, branch) for tree in trees for branch in tree.branches])
        log_probs = TreeModel(model)(build_batch(trees, row_tokens, "cpu", 0))
    torch.testing.assert_close(log_probs, expected, atol=1e-4, rtol=1e-5)


def test_gradients_equal_separate_forwards(model: Any, trees: list[Tree]) -> None:
    weights = torch.linspace(-1, 1, sum(len(tree.branches) for tree in trees))

    def gradients(total: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(total, [p for p in model.parameters() if p.requires_grad], allow_unused=True))

    slow = torch.stack([separate_log_prob(model, tree.root, branch) for tree in trees for branch in tree.branches])
    expected = gradients((slow * weights).sum())
    actual = gradients((TreeModel(model)(build_batch(trees, 200, "cpu", 0)) * weights).sum())
    scale = max(float(g.abs().max()) for g in expected if g is not None)
    for one, other in zip(actual, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert float((one - other).abs().max()) <= 5e-5 * scale


def test_without_positions_result_is_wrong(model: Any, trees: list[Tree]) -> None:
    batch = build_batch(trees[:1], 1, "cpu", 0)
    with torch.no_grad():
        right = TreeModel(model)(batch)
        batch.position_ids_RL = torch.arange(batch.input_ids_RL.shape[1])[None]
        wrong = TreeModel(model)(batch)
    assert float((right - wrong)[1:].abs().max()) > 1e-4, "positions have to matter, or the test of equality proves nothing"


def test_eager_attention_is_refused(tiny_base: Path, trees: list[Tree]) -> None:
    eager = load_model(tiny_base, attention="eager")
    with pytest.raises(ValueError, match="sdpa or flex attention"):
        tree_hidden(eager, build_batch(trees[:1], 1, "cpu", 0))


def test_branch_does_not_see_its_siblings(model: Any, trees: list[Tree]) -> None:
    tree = trees[0]
    other = Tree(tree.root, (tree.branches[0], Branch(tuple(reversed(tree.branches[1].input_ids)))))
    with torch.no_grad():
        first = TreeModel(model)(build_batch([Tree(tree.root, tree.branches[:2])], 1, "cpu", 0))
        second = TreeModel(model)(build_batch([other], 1, "cpu", 0))
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_targets_before_target_from_are_left_out(trees: list[Tree]) -> None:
    branch = trees[0].branches[1]
    whole, tail = Tree(trees[0].root, (branch,)), Tree(trees[0].root, (Branch(branch.input_ids, len(branch.input_ids)),))
    batch = build_batch([whole, tail], 1, "cpu", 0)
    assert batch.branch_T.tolist() == [0] * len(branch.input_ids)


@pytest.mark.parametrize(
    ("lengths", "budget", "rows"),
    [([5, 5, 5], 10, [[0, 1], [2]]), ([12, 3, 4], 10, [[0], [2, 1]]), ([1], 1, [[0]]), ([3, 3, 3, 3], 12, [[0, 1, 2, 3]])],
)
def test_rows_are_filled_longest_first(lengths: list[int], budget: int, rows: list[list[int]]) -> None:
    assert pack_rows(lengths, budget) == rows


@pytest.mark.parametrize(
    ("root", "branches", "sentence"),
    [
        (Root(()), (Branch((1,)),), "root"),
        (Root((1, 2)), (), "branch"),
        (Root((1, 2)), (Branch(()),), "0 tokens"),
        (Root((1, 2)), (Branch((1, 2), 3),), "from token 3"),
        (Root((1, 2), positions_AL=torch.zeros(3, 1, dtype=torch.long)), (Branch((1,)),), "positions for 1"),
    ],
)
def test_tree_that_cannot_be_read_is_refused(root: Root, branches: tuple[Branch, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build_batch([Tree(root, branches)], 10, "cpu", 0)


@pytest.mark.parametrize("count", [1, 60, 70, 3000])
def test_many_items_are_packed_like_few(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(count)
    for budget, longest in ((7, 12), (64, 20), (512, 700)):
        lengths = draw.integers(1, longest, count).tolist()
        rows = pack_rows(lengths, budget)
        for limit in (0, count):  # by length, and item by item
            monkeypatch.setattr("components.trees.trees.FEW_ITEMS", limit)
            assert pack_rows(lengths, budget) == rows
        monkeypatch.undo()


def test_item_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        pack_rows([3, 0], 10)


def test_packing_many_trees_is_near_linear() -> None:
    def seconds(count: int) -> float:
        lengths = np.random.default_rng(0).integers(500, 5000, count).tolist()
        start = time.process_time()
        rows = pack_rows(lengths, 8192)
        assert sorted(item for row in rows for item in row) == list(range(count))
        return time.process_time() - start

    assert seconds(160_000) < 20 * seconds(20_000), "eight times the trees; quadratic packing takes 64 times as long"
