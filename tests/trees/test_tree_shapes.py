"""Trees of any shape, packed to any budget, against the slow way; and their layout against the rules, position by position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.families.adapters import Root
from components.families.loading import load_model
from components.trees.logprobs import TreeModel, branch_tokens, tree_hidden
from components.trees.trees import PADDING, Branch, Tree, TreeBatch, build_batch, pack_rows

WORDS = st.integers(5, 200)  # tokens of text: none is a placeholder or special


@st.composite
def branches(draw: st.DrawFn) -> Branch:
    tokens = draw(st.lists(WORDS, min_size=1, max_size=6))
    return Branch(tuple(tokens), draw(st.integers(0, len(tokens))))


@st.composite
def any_trees(draw: st.DrawFn) -> list[Tree]:
    """Roots of text, or roots with positions on three axes that continue from any number, as in M-RoPE."""
    axes = draw(st.sampled_from([1, 3]))
    trees = []
    for _ in range(draw(st.integers(1, 4))):
        tokens = tuple(draw(st.lists(WORDS, min_size=1, max_size=9)))
        positions = torch.tensor(
            draw(st.lists(st.lists(st.integers(0, 20), min_size=len(tokens), max_size=len(tokens)), min_size=3, max_size=3))
        )
        trees.append(
            Tree(Root(tokens, positions_AL=positions if axes == 3 else None), tuple(draw(st.lists(branches(), min_size=1, max_size=4))))
        )
    return trees


budgets = st.integers(1, 90)


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return load_model(tiny_base)


@pytest.fixture(scope="module")
def flex(tiny_base: Path) -> Any:
    return load_model(tiny_base, attention="flex_attention")


def of_text(trees: list[Tree]) -> list[Tree]:
    """The same trees for a family of one position axis."""
    return [Tree(Root(tree.root.input_ids), tree.branches) for tree in trees]


def own_sequence(model: Any, root: Root, branch: Branch) -> torch.Tensor:
    tokens = torch.tensor([[*root.input_ids, *branch.input_ids]])
    start = len(root.input_ids) + branch.target_from
    predicted = model(input_ids=tokens).logits[0, start - 1 : -1].float().log_softmax(-1)
    return predicted.gather(1, tokens[0, start:, None]).sum()


quickly = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)


@pytest.mark.parametrize("path", ["model", "flex"])
@quickly
@given(trees=any_trees().map(of_text), budget=budgets)
def test_branch_log_prob_equals_its_separate_sequence(path: str, trees: list[Tree], budget: int, request: pytest.FixtureRequest) -> None:
    reader, separate = request.getfixturevalue(path), request.getfixturevalue("model")
    with torch.no_grad():
        packed_K = TreeModel(reader)(build_batch(trees, budget, "cpu", 0))
        expected_K = torch.stack([own_sequence(separate, tree.root, branch) for tree in trees for branch in tree.branches])
    torch.testing.assert_close(packed_K, expected_K, rtol=1e-5, atol=1e-5)


@quickly
@given(trees=any_trees().map(of_text), budget=budgets, data=st.data())
def test_no_token_sees_another_branch_or_tree(model: Any, trees: list[Tree], budget: int, data: st.DataObject) -> None:
    """A changed branch changes its own hidden states, and no bit of the others'."""
    changed_tree = data.draw(st.integers(0, len(trees) - 1))
    tree = trees[changed_tree]
    changed_branch = data.draw(st.integers(0, len(tree.branches) - 1))
    replaced = list(tree.branches)
    replaced[changed_branch] = Branch(
        tuple(token + 1 for token in tree.branches[changed_branch].input_ids), tree.branches[changed_branch].target_from
    )
    others = [*trees[:changed_tree], Tree(tree.root, tuple(replaced)), *trees[changed_tree + 1 :]]
    batch = build_batch(trees, budget, "cpu", 0)
    with torch.no_grad():
        before_NH, after_NH = tree_hidden(model, batch), tree_hidden(model, build_batch(others, budget, "cpu", 0))
    own_N = ((batch.tree_RL == changed_tree) & (batch.branch_RL == changed_branch + 1)).flatten()
    assert torch.equal(before_NH[~own_N], after_NH[~own_N])
    assert bool((before_NH[own_N] != after_NH[own_N]).any(1).all())


@settings(deadline=None)
@given(trees=any_trees(), budget=budgets)
def test_layout_of_any_batch_follows_rules(trees: list[Tree], budget: int) -> None:
    batch = build_batch(trees, budget, "cpu", 7)
    tokens, tree_ids, branch_ids = batch.input_ids_RL.flatten(), batch.tree_RL.flatten(), batch.branch_RL.flatten()
    positions_AN = batch.position_ids_RL.reshape(-1, tokens.numel())
    assert len(positions_AN) == (1 if trees[0].root.positions_AL is None else 3)
    assert bool((tokens[tree_ids == PADDING] == 7).all())
    number = 0
    for index, tree in enumerate(trees):
        root_N = (tree_ids == index) & (branch_ids == 0)
        assert tuple(tokens[root_N].tolist()) == tree.root.input_ids
        own = tree.root.positions_AL
        assert torch.equal(positions_AN[:, root_N], torch.arange(len(tree.root.input_ids))[None] if own is None else own)
        for position, branch in enumerate(tree.branches):
            own_N = (tree_ids == index) & (branch_ids == position + 1)
            assert tuple(tokens[own_N].tolist()) == branch.input_ids
            following = tree.root.next_position + torch.arange(len(branch.input_ids))
            assert torch.equal(positions_AN[:, own_N], following.expand(len(positions_AN), -1))
            spots = own_N.nonzero()[:, 0].tolist()
            assert int(batch.last_K[number]) == spots[-1]
            before = [int(root_N.nonzero()[-1]), *spots[:-1]][branch.target_from :]
            assert batch.predictor_T[batch.branch_T == number].tolist() == before
            assert tuple(batch.target_T[batch.branch_T == number].tolist()) == branch.input_ids[branch.target_from :]
            number += 1
    assert number == batch.branches == len(branch_tokens(batch))
    _check_rows(batch, trees, budget)


def _check_rows(batch: TreeBatch, trees: list[Tree], budget: int) -> None:
    for row_L in batch.tree_RL:
        present = sorted(set(row_L.tolist()) - {PADDING})
        assert sum(trees[index].tokens for index in present) == int((row_L != PADDING).sum())
        assert len(present) == 1 or int((row_L != PADDING).sum()) <= budget


@given(lengths=st.lists(st.integers(1, 50), max_size=40), budget=st.integers(1, 100))
def test_packing_is_first_fit_with_longest_first(lengths: list[int], budget: int) -> None:
    rows: list[list[int]] = []
    for item in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        fitting = [row for row in rows if sum(lengths[other] for other in row) + lengths[item] <= budget]
        if fitting:
            fitting[0].append(item)
        else:
            rows.append([item])
    packed = pack_rows(lengths, budget)
    assert packed == sorted(rows, key=lambda row: -sum(lengths[item] for item in row))
    assert sorted(item for row in packed for item in row) == list(range(len(lengths)))
