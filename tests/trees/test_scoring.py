"""Scores of packed trees in batches: plans, sums, counts of tokens and slots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.trees import scoring
from components.trees.scoring import SCORING_ROWS, plan_scoring, policy_tree, score_batches
from components.trees.trees import Branch, Tree
from tests.tiny import pixels, preprocessor, queries


@pytest.fixture(scope="module")
def reader(tiny_base: Path, tiny_media: Path) -> Preprocessor:
    return preprocessor(tiny_base, tiny_media)


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return load_model(tiny_base)


@torch.no_grad()
def own_sum(model: Any, tree: Tree, branch: Branch) -> float:
    """The log-softmax of full logits in fp64 over the branch's targets, in a sequence of its own."""
    ids, start = [*tree.root.input_ids, *branch.input_ids], len(tree.root.input_ids)
    logits = model(input_ids=torch.tensor([ids]), **pixels(tree.root)).logits[0].double().log_softmax(-1)
    return sum(float(logits[position - 1, ids[position]]) for position in range(start + branch.target_from, len(ids)))


def test_a_policy_tree_has_every_response_as_a_whole_target(reader: Preprocessor) -> None:
    query = queries()[1]
    tree = policy_tree(reader, query)
    assert tree.root is reader.policy_root(query)
    assert tree.branches == tuple(Branch((*reader.tokenizer(r.text)["input_ids"], reader.end_id), 0) for r in query.responses)


def test_scores_of_batches_come_tree_by_tree(reader: Preprocessor, model: Any) -> None:
    trees = [policy_tree(reader, query) for query in queries()]
    part = Tree(trees[2].root, (Branch(trees[2].branches[0].input_ids, 2), trees[2].branches[1]))
    counted: list[tuple[int, ...]] = []
    model.train()
    results = list(score_batches(model, [*trees, part], [[5, 0], [2]], 300, 0, lambda *pass_: counted.append(pass_)))
    assert [list(indices) for indices, _ in results] == [[5, 0], [2]]
    (_, (tail, image)), (_, (text,)) = results
    assert [tokens for _, tokens in tail] == [len(part.branches[0].input_ids) - 2, len(part.branches[1].input_ids)]
    assert tail[1] == pytest.approx(text[1], abs=1e-3)
    assert tail[0][0] > text[0][0]  # two tokens fewer
    assert [tokens for _, tokens in image] == [len(branch.input_ids) for branch in trees[0].branches]
    assert [pass_[0] for pass_ in counted] == [part.tokens + trees[0].tokens, trees[2].tokens]
    assert [pass_[1] for pass_ in counted] == [part.tokens + trees[0].tokens, trees[2].tokens]  # a row each, no padding
    assert [pass_[2] for pass_ in counted] == [sum(t for rows in (tail, image) for _, t in rows), sum(t for _, t in text)]
    assert not model.training
    assert all(isinstance(value, float) for value, _ in tail)
    (_, separate), *_ = score_batches(model, trees, [[0, 2]], 1, 0, lambda *pass_: counted.append(pass_))
    assert counted[-1][:2] == (trees[0].tokens + trees[2].tokens, 2 * max(trees[0].tokens, trees[2].tokens))
    assert [value for value, _ in separate[1]] == pytest.approx([value for value, _ in text], abs=1e-3)


def test_sums_are_those_of_full_logits_in_their_own_sequence(reader: Preprocessor, model: Any) -> None:
    trees = [policy_tree(reader, query) for query in queries()[:3]]
    ((_, rows),) = score_batches(model, trees, [[2, 0, 1]], 150, 0)
    for index, row in zip((2, 0, 1), rows, strict=True):
        expected = [(own_sum(model, trees[index], branch), len(branch.input_ids)) for branch in trees[index].branches]
        assert [tokens for _, tokens in row] == [tokens for _, tokens in expected]
        assert [value for value, _ in row] == pytest.approx([value for value, _ in expected], abs=1e-3)


def test_a_plan_has_so_many_packed_rows_a_batch(reader: Preprocessor, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [policy_tree(reader, query).tokens for query in queries()]
    longest_first = sorted(range(5), key=lambda item: -lengths[item])
    assert SCORING_ROWS == 16
    assert plan_scoring(lengths, max(lengths)) == plan_scoring(lengths, max(lengths))
    assert plan_scoring([lengths[0]] * 17, lengths[0]) == [list(range(16)), [16]]
    assert [len(batch) for batch in plan_scoring([10_240] * 7, 10_240)] == [3, 3, 1]  # 2^15 slots
    assert [len(batch) for batch in plan_scoring([40_000] * 2, 40_000)] == [1, 1]
    monkeypatch.setattr(scoring, "SCORING_ROWS", 1)
    assert plan_scoring(lengths, 1) == [[item] for item in longest_first]
    assert plan_scoring([lengths[0]] * 5, 2 * lengths[0]) == [[0, 1], [2, 3], [4]]
